"""Explain an answer in a few readable lines."""

from collections.abc import Iterator, Sequence

import numpy as np

from clipsearch.domain.cut import SHARE
from clipsearch.search.embed import Aim, Embedded
from clipsearch.search.judge import Judgment
from clipsearch.search.query import Query, SearchOptions
from clipsearch.search.rank import MOST_COUNTED, Ranking
from clipsearch.storage.collection import Collection
from clipsearch.text import percent, printable

_NEAREST = 3
"""Number of classes to name."""


def weak(judgment: Judgment) -> str:
    """The line for a weak match."""
    return f"weak match: {reached(judgment)}"


def reached(judgment: Judgment) -> str:
    """How many unrelated queries score as high, or images are as near, in words."""
    how = "score as high here" if judgment.compared_with == "queries" else "are as near here"
    return f"{percent(judgment.rate)} of unrelated {judgment.compared_with} {how}"


def counted(matching: int) -> str:
    """How many images match, as far as they are counted."""
    return f"{matching:,}" if matching < MOST_COUNTED else f"at least {matching:,}"


def matches(matching: int, shown: int) -> str:
    """How many images match, and how many of them are shown."""
    if matching == 1:
        return "1 image matches"
    rest = f"; showing {shown:,}" if shown < matching else ""
    return f"{counted(matching)} images match{rest}"


def summary(judgment: Judgment, matching: int, shown: int, *, all: bool = False) -> Iterator[str]:
    """The verdict and the number of matches, for a heading.

    all: whether the best images are shown, no matter how poor.
    """
    if all:
        yield f"the best {shown:,}, however poor"
        return
    if judgment.verdict == "strong":
        yield "strong match"
    if judgment.verdict == "weak":
        yield weak(judgment)
    yield matches(matching, shown)


def not_calibrated(options: SearchOptions) -> Iterator[str]:
    """Remarks about an answer before the first calibration, one per line."""
    yield (
        "not calibrated yet: there is no verdict, and queries are not checked against the domain; "
        "run clipsearch index FOLDER to the end (no image is embedded again)"
    )
    if options.max_false_alarm < 1:
        yield "--max-false-alarm is ignored: rates are not known before the first calibration"


def explain(
    query: Query, embedded: Embedded, ranking: Ranking, collections: Sequence[Collection]
) -> tuple[str, ...]:
    """The verdict, the cut, the gate and the nearest classes, one per line."""
    lines = [*_verdict(ranking.judgment), *_cut(ranking)]
    texts = [part for part in query.texts if part]
    for text, aim in zip(texts, embedded.aims, strict=False):
        lines += _domain(text, aim, collections[0])
    return tuple(lines)


def _verdict(judgment: Judgment) -> Iterator[str]:
    if judgment.verdict is None or judgment.rate is None:
        yield "verdict: not available for this kind of query, or before the first calibration"
        return
    yield f"verdict: {judgment.verdict}; {reached(judgment)}"
    if judgment.strength is not None:
        yield (
            f"strength {judgment.strength:.3f}; a match is strong above "
            f"{judgment.strong_from:.3f}, weak above {judgment.weak_from:.3f}"
        )


def _cut(ranking: Ranking) -> Iterator[str]:
    if not ranking.hits or ranking.judgment.mean is None:
        return
    best, least = ranking.hits[0].score, ranking.judgment.least
    yield (
        f"the best score is {best:.3f}, the mean {ranking.judgment.mean:.3f}; the list ends at "
        f"{least:.3f}, {SHARE:.0%} of the way to the best; images that reach it: {ranking.matching}"
    )


def _domain(text: str, aim: Aim, collection: Collection) -> Iterator[str]:
    if collection.texts is None:
        return
    gate, names = collection.texts.gate, collection.domain.class_names
    similarities = gate.classes @ aim.vector
    nearest = np.argsort(-similarities)[:_NEAREST]
    named = gate.judge(text, aim.vector)
    why = (
        f"it names {', '.join(named.named)}"
        if named.named
        else f"its score is {named.score:.3f}, and the threshold is {gate.threshold:.3f}"
    )
    yield f"domain {printable(collection.domain.name)}: {printable(text)!r} is accepted; {why}"
    yield "nearest classes: " + ", ".join(f"{names[n]} {similarities[n]:.2f}" for n in nearest)
