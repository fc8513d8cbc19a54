"""A fake encoder with a little meaning, and a small domain.

A text's embedding is the sum of one random direction a word, so texts that share words are alike;
an image of a class is made by adding noise to the embedding of the class's name.
"""

import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from clipsearch.domain import taxonomy
from clipsearch.domain.taxonomy import Domain
from clipsearch.records import Vectors
from clipsearch.vectors import l2_normalise

DIM = 64


class WordEncoder:
    """Texts to unit vectors, the same on every run; it counts the texts that it was given."""

    def __init__(self) -> None:
        self.texts = 0

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        self.texts += len(texts)
        return l2_normalise([self._sum(text) for text in texts])

    def _sum(self, text: str) -> Vectors:
        words = re.findall(r"\w+", text.lower()) or ["nothing"]
        return np.sum([self._direction(word) for word in words], axis=0)

    @staticmethod
    def _direction(word: str) -> Vectors:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


SMALL = """
name = "small"
description = "three animals"
templates = ["a photo of a {}.", "a drawing of the {}."]
in_domain = ["something with whiskers", "a long trunk"]
out_of_domain = ["quarterly revenue", "the square root of two"]

[[classes]]
name = "cat"
synonyms = ["kitten"]

[[classes]]
name = "African elephant"

[[classes]]
name = "hot dog"
prompts = ["a sausage in a bun."]

[pass_marks]
top1 = 0.8
"""


@pytest.fixture
def small() -> Domain:
    return taxonomy.parse(SMALL, "small.toml")


@pytest.fixture
def edited() -> Callable[[str, str], str]:
    """The small domain's text with one part replaced."""

    def edit(old: str, new: str) -> str:
        assert SMALL.count(old) == 1
        return SMALL.replace(old, new)

    return edit
