"""The bank of background prompts, against which a collection's scores are calibrated."""

from functools import cache
from pathlib import Path
from typing import Literal

from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.words import Vocabulary

Half = Literal["first", "second"]


@cache
def prompts(half: Half | None = None) -> tuple[str, ...]:
    """All prompts of the bank, or those of one half, for checks on prompts kept apart."""
    text = (Path(__file__).parent / "background.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    bank = tuple(line for line in lines if line and not line.startswith("#"))
    if half is None:
        return bank
    return bank[0::2] if half == "first" else bank[1::2]


def unrelated(domain: Domain, half: Half | None = None) -> tuple[str, ...]:
    """The prompts that name no class of ``domain``.

    A collection in this domain may well hold what the others are about, and a right answer must
    not be counted as a false alarm. Words decide, and never the scores: leaving out what scored
    high would make every calibration look good.
    """
    vocabulary = Vocabulary(domain)
    return tuple(text for text in prompts(half) if not vocabulary.classes_named(text))
