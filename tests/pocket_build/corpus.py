"""The training texts of the text tower, and the text that the teacher embeds for each of them.

Nothing in an image says whether it was asked for with "a photo of a tench", "tench" or "tenches",
so all ways to ask for a thing share one target: the teacher's embedding of "a photo of a ...".
That also keeps all targets near the single mean that is subtracted from them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from .vocabulary import (
    ACTIVITIES,
    ADJECTIVES,
    BRITISH,
    COLOURS,
    DOINGS,
    EVERYDAY,
    PEOPLE,
    PREPOSITIONS,
    SETTINGS,
    VIEWS,
)
from .wordnet import ADJECTIVE, ADVERB, CONCRETE, NOUN, VERB, Synset, WordNet

# The share of the training texts that each group gets.
SHARES = {
    "class prompt": 0.10,
    "class": 0.13,
    "class template": 0.03,
    "class synonym": 0.05,
    "class adjective": 0.05,
    "broad noun": 0.16,
    "common noun": 0.13,
    "noun": 0.10,
    "word": 0.02,
    "definition": 0.02,
    "example": 0.02,
    "caption": 0.10,
    "scene": 0.09,
}
HELD_OUT = {
    "noun": 40,
    "example": 40,
    "caption": 100,
    "scene": 100,
}  # one in this many is never trained on
MAX_WORDS = 5  # of definitions and examples; queries are short
GROUPS = frozenset({"a group of", "a pile of"})  # these take a plural


@dataclass(slots=True)
class Corpus:
    """Training texts (texts[i] learns targets[target_of[i]]) and the texts held out."""

    targets: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    target_of: list[int] = field(default_factory=list)
    group_of: list[str] = field(default_factory=list)
    held_out: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    class_targets: list[int] = field(default_factory=list)
    defined: dict[int, int] = field(default_factory=dict)  # target -> the synset it defines
    _numbers: dict[str, int] = field(default_factory=dict)
    _kept_out: set[int] = field(default_factory=set)

    def add(self, group: str, target: str, forms: Iterable[str]) -> int:
        """Add all `forms` of one text; one in `HELD_OUT[group]` is held out of training."""
        number = self._numbers.setdefault(target, len(self.targets))
        fresh = number == len(self.targets)
        if fresh:
            self.targets.append(target)
        if number in self._kept_out:
            return number
        forms = dict.fromkeys(forms)
        if fresh and group in HELD_OUT and crc32(target.encode()) % HELD_OUT[group] == 0:
            self._kept_out.add(number)
            self.held_out.setdefault(group, []).append((next(iter(forms)), number))
            return number
        for form in forms:
            self.texts.append(form)
            self.target_of.append(number)
            self.group_of.append(group)
        return number


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


def plural(phrase: str) -> str:
    """The regular English plural of the last word."""
    if re.search(r"(s|x|z|ch|sh)$", phrase):
        return phrase + "es"
    if re.search(r"[^aeiou]y$", phrase):
        return phrase[:-1] + "ies"
    if re.search(r"[a-z]man$", phrase):
        return phrase[:-2] + "en"
    return phrase + "s"


def british(text: str) -> str:
    """The text with its American words in British spelling."""
    return " ".join(BRITISH.get(word, word) for word in text.split())


def forms_of(name: str) -> list[str]:
    """The ways to ask for a thing, plainest first."""
    forms = [
        name,
        article(name),
        f"a photo of {article(name)}",
        f"a photo of a {name}",
        plural(name),
    ]
    forms += [f"a picture of {article(name)}", f"the {name}", f"photos of {plural(name)}"]
    other = british(name)
    if other != name:
        forms += [other, f"a photo of {article(other)}", plural(other)]
    return forms


def build_corpus(
    wordnet: WordNet,
    class_names: Sequence[str],
    class_synsets: dict[int, Synset],
    templates: Sequence[Callable[[str], str]],
    frequent: frozenset[str],
    broad: Sequence[str],
    *,
    seed: int = 0,
) -> Corpus:
    """Collect all texts.

    Args:
        wordnet: where the words are from.
        class_names: the classes of the image tower; `class_targets` holds their prompts' targets.
        class_synsets: the meanings that `wordnet.align` found for them.
        templates: prompt templates, from name to prompt (open_clip keeps them as functions).
        frequent: words common in captions, in lower case (those the tokenizer knows whole).
        broad: words that cover several classes.
        seed: of the random captions.
    """
    rng = random.Random(seed)
    corpus = Corpus()
    for name in class_names:  # two are called "missile", two "sunglasses"
        prompt = f"a photo of a {name}"
        corpus.class_targets.append(corpus.add("class prompt", prompt, [prompt]))
    _add_classes(corpus, class_names, templates, rng)
    _add_synonyms(corpus, wordnet, class_names, class_synsets)
    common = _add_nouns(corpus, wordnet, frequent, {name.lower() for name in class_names})
    _add_words(corpus, wordnet, frequent)
    for text in _captions(common, class_names, rng, 110_000):
        forms = [text, f"a photo of {text}"]
        corpus.add("caption", f"a photo of {text}", [*forms, british(text)])
    for word in broad:
        corpus.add("broad noun", f"a photo of {article(word)}", forms_of(word))
    for text in _scenes([*broad, *EVERYDAY, *class_names], rng, 24_000):
        corpus.add("scene", f"a photo of {text}", [text, f"a photo of {text}"])
    for synset in wordnet.synsets[NOUN].values():
        text = re.split(r";", synset.definition)[0].strip()
        if synset.lexfile in CONCRETE and 3 <= len(text.split()) <= MAX_WORDS:
            target = corpus.add("definition", f"a photo of {text}", [text, f"a photo of {text}"])
            corpus.defined.setdefault(target, synset.offset)
    for pos in (NOUN, VERB, ADJECTIVE):
        for synset in wordnet.synsets[pos].values():
            for text in synset.examples:
                if 3 <= len(text.split()) <= MAX_WORDS:
                    corpus.add("example", f"a photo of {text}", [text])
    return corpus


def _add_classes(
    corpus: Corpus,
    class_names: Sequence[str],
    templates: Sequence[Callable[[str], str]],
    rng: random.Random,
) -> None:
    photographic = [template for template in templates if "photo" in template("")]
    others = [template for template in templates if "photo" not in template("")]
    for name in class_names:
        prompt = f"a photo of a {name}"
        forms = dict.fromkeys(forms_of(name))
        for part in re.split(r" / |\(|\)", name)[:1]:
            forms.update(dict.fromkeys(forms_of(part.strip())))
        forms.update((template(name).rstrip("."), None) for template in photographic)
        forms.update((template(name), None) for template in photographic[::4])
        corpus.add("class", prompt, [form for form in forms if form != prompt])
        for template in others:
            text = template(name)
            corpus.add("class template", text, [text, text.rstrip(".")])
        for adjective in rng.sample(COLOURS, 5) + rng.sample(ADJECTIVES, 10):
            text = f"{adjective} {name}"
            forms = dict.fromkeys([text, article(text), plural(text), british(text)])
            forms[f"a photo of {article(text)}"] = None
            corpus.add("class adjective", f"a photo of {article(text)}", forms)


def _add_synonyms(
    corpus: Corpus, wordnet: WordNet, class_names: Sequence[str], class_synsets: dict[int, Synset]
) -> None:
    """Add WordNet's synonyms of a class, if the class is their most common meaning."""
    for number, synset in class_synsets.items():
        name = class_names[number].lower()
        if name not in (word.lower() for word in synset.words):
            continue
        for word in synset.words:
            if word.lower() != name and wordnet.first_sense(word) is synset:
                corpus.add("class synonym", f"a photo of a {word}", forms_of(word))


def _add_nouns(
    corpus: Corpus, wordnet: WordNet, frequent: frozenset[str], done: set[str]
) -> list[str]:
    """Add all nouns except those in `done`; return the common names of visible things."""
    common: list[str] = list(EVERYDAY)
    for name in sorted(set(EVERYDAY) - done):
        corpus.add("common noun", f"a photo of {article(name)}", forms_of(name))
    for synset in wordnet.synsets[NOUN].values():
        for word in synset.words:
            concrete = synset.lexfile in CONCRETE and wordnet.first_sense(word) is synset
            known = all(part in frequent for part in word.split())
            visible_name = known or (concrete and len(word.split()) < 3)
            ordinary = word == word.lower() or (" " not in word and word.lower() in frequent)
            if not (visible_name or ordinary):
                continue
            if len(word.split()) > 4 or word.lower() in done:
                continue
            prompt = f"a photo of {article(word)}"
            if concrete and word.lower() in frequent:
                if word == word.lower() and word not in common:
                    common.append(word)
                corpus.add("common noun", prompt, forms_of(word))
            elif concrete and known:
                corpus.add("noun", prompt, forms_of(word)[:5])
            else:
                corpus.add("noun", prompt, forms_of(word)[:3])
    return common


def _add_words(corpus: Corpus, wordnet: WordNet, frequent: frozenset[str]) -> None:
    words = set(frequent)
    for pos in (VERB, ADJECTIVE, ADVERB):
        words.update(word for word in wordnet.senses[pos] if len(word.split()) < 3)
    for word in sorted(words - wordnet.senses[NOUN].keys()):
        corpus.add("word", f"a photo of {word}", [word, f"a photo of {word}"])


def _captions(
    nouns: Sequence[str], class_names: Sequence[str], rng: random.Random, count: int
) -> Iterator[str]:
    """Random captions in the forms in which people ask for images."""
    adjectives = COLOURS * 3 + ADJECTIVES

    def noun() -> str:
        draw = rng.random()
        if draw < 0.25:
            return rng.choice(class_names)
        return rng.choice(EVERYDAY) if draw < 0.55 else rng.choice(nouns)

    for _ in range(count):
        draw = rng.random()
        thing, adjective, setting = noun(), rng.choice(adjectives), rng.choice(SETTINGS)
        if draw < 0.25:
            yield article(f"{adjective} {thing}")
        elif draw < 0.35:
            yield rng.choice(["", f"{adjective} ", "two ", "three ", "many "]) + plural(thing)
        elif draw < 0.55:
            yield f"{article(thing)} {setting}"
        elif draw < 0.62:
            yield f"{plural(thing)} {setting}"
        elif draw < 0.70:
            yield f"{article(f'{adjective} {thing}')} {setting}"
        elif draw < 0.85:
            yield f"{article(thing)} {rng.choice(PREPOSITIONS)} {article(noun())}"
        else:
            person = rng.choice(PEOPLE)
            who = person if person.endswith(("s", "men", "ren", "people")) else article(person)
            doing = rng.choice([*ACTIVITIES, f"with {article(thing)}", f"holding {article(thing)}"])
            yield f"{who} {doing}" + (f" {setting}" if rng.random() < 0.2 else "")


def _scenes(nouns: Sequence[str], rng: random.Random, count: int) -> Iterator[str]:
    """Random texts about things that do or undergo something, and lists of things."""
    for _ in range(count):
        draw = rng.random()
        thing, other = rng.choice(nouns), rng.choice(nouns)
        if draw < 0.35:
            yield f"{article(thing)} {rng.choice(DOINGS)}"
        elif draw < 0.45:
            yield f"{plural(thing)} {rng.choice(SETTINGS)}"
        elif draw < 0.6:
            view = rng.choice(VIEWS)
            yield f"{view} {plural(thing) if view in GROUPS else article(thing)}"
        elif draw < 0.85:
            joined = rng.choice(["and", "and", "or", "with", "next to"])
            yield f"{article(thing)} {joined} {article(other)}"
        elif draw < 0.93:
            yield f"{plural(thing)} and {plural(other)}"
        else:
            yield f"{article(thing)} and {article(other)} {rng.choice(SETTINGS)}"
