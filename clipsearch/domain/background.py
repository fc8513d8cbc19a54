"""The bank of background prompts, used to calibrate a collection's scores."""

from functools import cache
from pathlib import Path
from typing import Literal

from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.words import Vocabulary

Half = Literal["first", "second"]


@cache
def prompts(half: Half | None = None) -> tuple[str, ...]:
    """All prompts of the bank, or those of one half, for checks on held-out prompts."""
    text = (Path(__file__).parent / "background.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    bank = tuple(line for line in lines if line and not line.startswith("#"))
    if half is None:
        return bank
    return bank[0::2] if half == "first" else bank[1::2]


def unrelated(domain: Domain, half: Half | None = None) -> tuple[str, ...]:
    """The prompts that name no class of ``domain``.

    A collection in this domain may well show what the other prompts are about, and a right answer
    must not count as a false alarm. Words decide, never scores: leaving out prompts with high
    scores would make every calibration look good.
    """
    vocabulary = Vocabulary(domain)
    return tuple(text for text in prompts(half) if not vocabulary.classes_named(text))
