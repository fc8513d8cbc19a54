"""Read WordNet 3.0's own files (see wndb(5WN) and cntlist(5WN))."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

NOUN, VERB, ADJECTIVE, ADVERB = "noun", "verb", "adj", "adv"

# Lexicographer files (lexnames(5WN)) whose nouns can be photographed.
ANIMAL, ARTIFACT, BODY, FOOD, LOCATION, OBJECT, PERSON, PHENOMENON, PLANT = (
    5,
    6,
    8,
    13,
    15,
    17,
    18,
    19,
    20,
)
_POS_OF_KEY = {"1": NOUN, "2": VERB, "3": ADJECTIVE, "4": ADVERB, "5": ADJECTIVE}
CONCRETE = frozenset({ANIMAL, ARTIFACT, BODY, FOOD, LOCATION, OBJECT, PERSON, PHENOMENON, PLANT})


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning: its words, definition, examples, and the meanings directly above it."""

    offset: int
    lexfile: int
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]
    hypernyms: tuple[int, ...] = ()


@dataclass(slots=True)
class WordNet:
    """All synsets by part of speech and offset, and each word's synsets, most common first.

    `counts` is how often each sense of a word occurs in WordNet's tagged texts, in the order of
    `senses`; words that never occur are left out.
    """

    synsets: dict[str, dict[int, Synset]] = field(default_factory=dict)
    senses: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    counts: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> WordNet:
        """Read the eight files and `cntlist.rev` from `folder`."""
        wordnet = cls()
        for pos in (NOUN, VERB, ADJECTIVE, ADVERB):
            lines = (folder / f"data.{pos}").read_text(encoding="utf-8").splitlines()
            parsed = (_synset(line) for line in lines if not line.startswith("  "))
            wordnet.synsets[pos] = {synset.offset: synset for synset in parsed}
            lines = (folder / f"index.{pos}").read_text(encoding="utf-8").splitlines()
            wordnet.senses[pos] = dict(_senses(line) for line in lines if not line.startswith("  "))
            wordnet.counts[pos] = {}
        for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
            key, number, count = line.split()
            lemma, _, rest = key.partition("%")
            word, pos = lemma.replace("_", " "), _POS_OF_KEY[rest[0]]
            if senses := wordnet.senses[pos].get(word):
                known = wordnet.counts[pos].setdefault(word, (0,) * len(senses))
                place = int(number) - 1
                wordnet.counts[pos][word] = (*known[:place], int(count), *known[place + 1 :])
        return wordnet

    def first_sense(self, word: str) -> Synset | None:
        """The most common meaning of `word` as a noun, if it has one."""
        offsets = self.senses[NOUN].get(word.lower())
        return self.synsets[NOUN][offsets[0]] if offsets else None

    def above(self, offset: int, *, steps: int = 99) -> dict[int, int]:
        """The noun synset and all synsets up to `steps` above it: offset -> steps."""
        found = {offset: 0}
        layer = [offset]
        for step in range(1, steps + 1):
            layer = [up for low in layer for up in self.synsets[NOUN][low].hypernyms]
            layer = [up for up in dict.fromkeys(layer) if up not in found]
            if not layer:
                break
            found |= dict.fromkeys(layer, step)
        return found


def _synset(line: str) -> Synset:
    head, _, gloss = line.partition(" | ")
    parts = head.split()
    count = int(parts[3], 16)
    words = tuple(
        re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in parts[4 : 4 + 2 * count : 2]
    )
    examples = tuple(re.findall(r'"([^"]+)"', gloss))
    definition = re.sub(r"\s*\([^)]*\)", "", gloss.split('"')[0]).strip(" ;:\t")
    pointers = parts[5 + 2 * count :]  # symbol, offset, part of speech, source and target
    hypernyms = tuple(
        int(offset)
        for symbol, offset in zip(pointers[::4], pointers[1::4], strict=False)
        if symbol in ("@", "@i")
    )
    return Synset(int(parts[0]), int(parts[1]), words, definition, examples, hypernyms)


def _senses(line: str) -> tuple[str, tuple[int, ...]]:
    parts = line.split()
    count = int(parts[2])
    return parts[0].replace("_", " "), tuple(int(offset) for offset in parts[-count:])


def align(class_names: Sequence[str], wordnet: WordNet) -> dict[int, Synset]:
    """Find the synset of each ImageNet class, if the names alone identify it.

    ImageNet numbers its classes in the order of their WordNet 3.0 noun offsets, so the right
    synsets are the best matching candidates whose offsets increase: a heaviest increasing
    subsequence. A whole class name counts more than its end or its start.

    Returns:
        class number -> synset; classes without a match are left out.
    """
    candidates: list[tuple[int, int, int]] = []  # class, offset, weight
    for number, name in enumerate(class_names):
        weights: dict[int, int] = defaultdict(int)
        for phrase, weight in _phrases(name):
            for offset in wordnet.senses[NOUN].get(phrase, ()):
                weights[offset] = max(weights[offset], weight)
        # Decreasing offsets within a class, so that no chain can take two candidates of one class.
        candidates += [
            (number, offset, weights[offset]) for offset in sorted(weights, reverse=True)
        ]
    chosen = _heaviest_increasing([(offset, weight) for _, offset, weight in candidates])
    return {candidates[i][0]: wordnet.synsets[NOUN][candidates[i][1]] for i in chosen}


def _phrases(name: str) -> list[tuple[str, int]]:
    """The parts of a class name that may be WordNet words, with their weights."""
    phrases: dict[str, int] = {}
    for part in re.split(r" / |\(|\)|, ", name.lower()):
        words = part.split()
        for start in range(len(words)):
            for stop in range(start + 1, len(words) + 1):
                whole = stop - start == len(words)
                phrase = " ".join(words[start:stop])
                weight = 10 if whole else 2 * (stop - start) + (stop == len(words))
                for word in {
                    phrase,
                    phrase.replace("-", " "),
                    phrase.rstrip("s"),
                    phrase.replace(" ", ""),
                }:
                    phrases[word] = max(phrases.get(word, 0), weight)
    return list(phrases.items())


def _heaviest_increasing(items: Sequence[tuple[int, int]]) -> list[int]:
    """Positions of the heaviest subsequence with increasing keys; items are (key, weight)."""
    keys = sorted({key for key, _ in items})
    best: list[tuple[int, int]] = [(0, -1)] * (len(keys) + 1)  # Fenwick tree of (weight, position)
    before: list[int] = []
    for position, (key, weight) in enumerate(items):
        rank = bisect_left(keys, key)
        total, previous, i = 0, -1, rank
        while i > 0:
            total, previous = max((total, previous), best[i])
            i -= i & -i
        before.append(previous)
        i = rank + 1
        while i < len(best):
            best[i] = max(best[i], (total + weight, position))
            i += i & -i
    last = max(_prefix(best, len(keys)), default=(0, -1))[1]
    chain: list[int] = []
    while last >= 0:
        chain.append(last)
        last = before[last]
    return chain[::-1]


def _prefix(tree: Sequence[tuple[int, int]], i: int) -> list[tuple[int, int]]:
    found = []
    while i > 0:
        found.append(tree[i])
        i -= i & -i
    return found
