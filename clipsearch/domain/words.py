"""Find the words of a taxonomy in what people type.

A query names a class if it contains the class's name or a synonym as whole words, in the singular
or plural, in any case. This compares spelling, not meaning: it is fast, it can be explained, and
it is never wrong about whether a word is present.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from clipsearch.domain.taxonomy import Domain, folded

_WHO = ("police", "fire", "fisher", "snow", "sports")
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "oxen": "ox",
    "wolves": "wolf",
    "leaves": "leaf",
    "loaves": "loaf",
    "knives": "knife",
    "calves": "calf",
    "halves": "half",
    "shelves": "shelf",
    "scarves": "scarf",
    "hooves": "hoof",
    "cacti": "cactus",
    "fungi": "fungus",
    "octopi": "octopus",
    **{f"{who}men": f"{who}man" for who in _WHO},
    **{f"{who}women": f"{who}woman" for who in _WHO},
}

_NO_PLURALS = {"lens", "news", "gas", "chess"}


@lru_cache(maxsize=16_384)
def singular(word: str) -> str:
    """One spelling for the singular and plural of a lower-case English noun.

    It need not be a word: it only has to be the same for ``pony`` and ``ponies``.
    """
    word = _IRREGULAR.get(word, word)
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us")):
        word = word if word in _NO_PLURALS else word[:-1]
    if word.endswith("ie"):
        return word[:-2] + "y"
    if word.endswith(("se", "xe", "ze", "che", "she", "oe")):  # buses and houses, foxes and axes
        return word[:-1]
    return word


def tokens(text: str) -> tuple[str, ...]:
    """The words of a text in lower case and singular; a possessive becomes its noun."""
    words = re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", folded(text))
    return tuple(singular(re.sub(r"['\u2019]s?$", "", word)) for word in words)


class Vocabulary:
    """Class names and synonyms of a domain, ready for lookup."""

    def __init__(self, domain: Domain) -> None:
        self._classes: dict[tuple[str, ...], int] = {}
        for index, cls in enumerate(domain.classes):
            for name in (cls.name, *cls.synonyms):
                self._classes.setdefault(tokens(name), index)
        self._longest = max(map(len, self._classes))

    def classes_named(self, text: str) -> tuple[int, ...]:
        """Indices of the classes that a text names, in text order, without duplicates.

        The longest name at a position wins: a hot dog is not a dog.
        """
        return tuple(dict.fromkeys(self._named(tokens(text))))

    def _named(self, words: tuple[str, ...]) -> Iterator[int]:
        at = 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                index = self._classes.get(words[at : at + length])
                if index is not None:
                    yield index
                    at += length
                    break
            else:
                at += 1
