"""The ImageNet classes that a word covers: those below it in WordNet.

The teacher puts "a bird" only halfway to "a robin", so its vector alone finds few birds. `aims`
draws such words to all their classes; this module finds the classes that a text is about.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .vocabulary import DETERMINERS, FUNCTION_WORDS, LISTING
from .wordnet import (
    ADJECTIVE,
    ANIMAL,
    BODY,
    CONCRETE,
    LOCATION,
    NOUN,
    PERSON,
    VERB,
    Synset,
    WordNet,
)

BROADEST = 250  # a word over more classes than this (animal, artifact) is too general
STEPS_UP, BROADEST_UP, SHARE_UP = 3, 30, 0.25  # for a word below a class: what is just above
SENSES = 4  # how many of a word's meanings are considered
RANK_COST, RARITY_COST = 0.02, 0.04  # per rank, and per halving of a meaning's frequency
LONGEST = 6  # words of a noun phrase
MODIFIER = 0.3  # the weight of "dog" in "dog house"
FURTHER = 0.5  # of "beach" in "a dog on a beach"; half as much for each later noun


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase in a text, and its weight."""

    phrase: str
    weight: float


@dataclass(frozen=True, slots=True)
class Meaning:
    """Classes that a phrase may mean.

    Attributes:
        classes: their numbers.
        cost: how unlikely the meaning is, without a context.
        share: how well the classes represent it, from 0 to 1.
    """

    classes: tuple[int, ...]
    cost: float
    share: float


@dataclass(slots=True)
class Coverage:
    """The classes below each noun synset, and the phrases and synsets that are classes."""

    wordnet: WordNet
    below: dict[int, tuple[int, ...]]
    named: dict[str, tuple[int, ...]]
    own: frozenset[int]
    _meanings: dict[str, tuple[Meaning, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, wordnet: WordNet, class_names: Sequence[str], class_synsets: Mapping[int, Synset]
    ) -> Coverage:
        """Place each class below its synset, or, if it has none, below the words of its name."""
        below: dict[int, set[int]] = defaultdict(set)
        named: dict[str, set[int]] = defaultdict(set)
        for number, name in enumerate(class_names):
            for phrase in (name.lower(), re.split(r" / | \(", name.lower())[0]):
                named[phrase].add(number)
            for offset in _places(number, name, wordnet, class_synsets):
                below[offset].add(number)
        return cls(
            wordnet,
            {offset: tuple(sorted(classes)) for offset, classes in below.items()},
            {phrase: tuple(sorted(classes)) for phrase, classes in named.items()},
            frozenset(synset.offset for synset in class_synsets.values()),
        )

    def meanings(self, phrase: str) -> tuple[Meaning, ...]:
        """The possible meanings of `phrase` that have classes."""
        if phrase not in self._meanings:
            self._meanings[phrase] = tuple(self._read(phrase))
        return self._meanings[phrase]

    def _read(self, phrase: str) -> Iterator[Meaning]:
        if phrase in self.named:
            yield Meaning(self.named[phrase], 0.0, 1.0)
        offsets = self.wordnet.senses[NOUN].get(phrase, ())[:SENSES]
        counts = self.wordnet.counts[NOUN].get(phrase, (0,) * SENSES)
        for rank, (offset, count) in enumerate(zip(offsets, counts, strict=False)):
            rarity = math.log2((max(counts) + 1) / (count + 1))
            yield from self.meaning(offset, RANK_COST * rank + RARITY_COST * rarity)

    def meaning(self, offset: int, cost: float = 0.0) -> Iterator[Meaning]:
        """The meaning of one noun synset, if there are classes for it."""
        lexfile = self.wordnet.synsets[NOUN][offset].lexfile
        if lexfile not in CONCRETE:
            return
        if classes := self.below.get(offset):
            if len(classes) <= BROADEST:
                # A general word over one or two classes means more than these.
                share = 1.0 if offset in self.own else len(classes) / (len(classes) + 1)
                yield Meaning(classes, cost, share)
        elif lexfile not in (PERSON, BODY, LOCATION):
            for up in self.wordnet.above(offset, steps=STEPS_UP):
                classes = self.below.get(up, ())
                if 0 < len(classes) <= BROADEST_UP:
                    yield Meaning(classes, cost, SHARE_UP)
                    return

    def broad_words(self) -> list[str]:
        """The words of all synsets that cover classes but are not classes themselves."""
        synsets = (
            self.wordnet.synsets[NOUN][offset]
            for offset, classes in sorted(self.below.items())
            if offset not in self.own and len(classes) <= BROADEST
        )
        words = (w for s in synsets if s.lexfile in CONCRETE for w in s.words if w == w.lower())
        return [word for word in dict.fromkeys(words) if word not in self.named]

    def concrete(self, phrase: str) -> bool:
        """Whether the most common meaning of `phrase` is a thing, not a person or an idea."""
        synset = self.wordnet.first_sense(phrase)
        return bool(synset and synset.lexfile in CONCRETE and synset.lexfile != PERSON)

    def nouns(self, text: str) -> list[Noun]:
        """The noun phrases of `text`, longest first from the left.

        The subject and nouns listed with it ("a cat and a dog") weigh 1. Each preposition
        or verb multiplies the weight of later nouns by FURTHER. A noun before a noun gets MODIFIER.
        """
        words = [w.rstrip(".") for w in re.findall(r"[a-z0-9][a-z0-9'.-]*", text.lower())]
        found: list[tuple[int, int, str]] = []
        start = 0
        while start < len(words):
            for stop in range(min(start + LONGEST, len(words)), start, -1):
                phrase = self._known(words[start:stop])
                if phrase and (stop - start > 1 or self._is_noun(words, start, phrase)):
                    found.append((start, stop, phrase))
                    start = stop
                    break
            else:
                start += 1
        nouns: list[Noun] = []
        weight, before = 1.0, 0
        for place, (start, stop, phrase) in enumerate(found):
            if place and not LISTING.issuperset(words[before:start]):
                weight *= FURTHER
            modifies = place + 1 < len(found) and found[place + 1][0] == stop
            nouns.append(Noun(phrase, MODIFIER * weight if modifies else weight))
            before = stop
        return nouns

    def _known(self, words: Sequence[str]) -> str:
        """The phrase as the class names or WordNet spell it, or "" if neither knows it."""
        if words[0] in DETERMINERS or (len(words) == 1 and words[0] in FUNCTION_WORDS):
            return ""  # but "trash can" and "front door" are nouns
        whole = " ".join(words)
        for phrase in (whole, *singulars(whole), whole.replace("-", " ")):
            if phrase in self.named or phrase in self.wordnet.senses[NOUN]:
                return phrase
        return ""

    def _is_noun(self, words: Sequence[str], place: int, phrase: str) -> bool:
        """Whether a word in a text is a noun there, and not a verb such as "plays"."""
        if len(words) == 1 or phrase in self.named or words[place - 1 : place] == ["of"]:
            return True
        noun, other = (
            sum(sum(self.wordnet.counts[pos].get(phrase, ())) for pos in parts)
            for parts in ((NOUN,), (VERB, ADJECTIVE))
        )
        return noun >= other or (place > 0 and words[place - 1] in DETERMINERS)


def singulars(phrase: str) -> list[str]:
    """Possible singulars of `phrase`, most likely first."""
    endings = [("s", ""), ("ies", "y"), ("men", "man"), ("ves", "f"), ("es", "")]
    return [
        phrase[: -len(ending)] + singular
        for ending, singular in endings
        if phrase.endswith(ending) and not phrase.endswith("ss") and len(phrase) > len(ending) + 1
    ]


def _places(
    number: int, name: str, wordnet: WordNet, class_synsets: Mapping[int, Synset]
) -> Iterator[int]:
    """The synsets above class `number`.

    Classes are numbered in the order of their synsets, so a class without a synset is of the same
    kind as its neighbors: only such meanings of its name count. Neighboring animals are also
    neighbors in WordNet's tree; one with an unknown name is below what both neighbors are below.
    """
    if number in class_synsets:
        yield from wordnet.above(class_synsets[number].offset)
        return
    before = max((n for n in class_synsets if n < number), default=None)
    after = min((n for n in class_synsets if n > number), default=None)
    neighbors = [class_synsets[n] for n in (before, after) if n is not None]
    kinds = {synset.lexfile for synset in neighbors}
    words = re.split(r" / | \(", name.lower())[0].split()
    ends = [words[start:] for start in range(len(words))]
    starts = [words[:stop] for stop in range(len(words) - 1, 0, -1)]
    for part in ends + starts:
        for phrase in (" ".join(part), "-".join(part), "".join(part), " ".join(part).rstrip("s")):
            for offset in wordnet.senses[NOUN].get(phrase, ()):
                if wordnet.synsets[NOUN][offset].lexfile in kinds:
                    yield from wordnet.above(offset)
                    return
    if kinds == {ANIMAL}:
        yield from set.intersection(*(set(wordnet.above(synset.offset)) for synset in neighbors))
