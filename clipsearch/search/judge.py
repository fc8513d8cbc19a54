"""Judge a ranking: is there any match, and where does the list end?

The two questions have two answers. The verdict compares the query with unrelated ones (see
``domain.verdict``); the cut compares the images of one ranking with each other (``domain.cut``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipsearch.domain import cut
from clipsearch.domain.calibration import NEAR_DUPLICATE
from clipsearch.domain.verdict import BEST, STRONG, WEAK, Background, strength, verdict
from clipsearch.records import Hit, Verdict
from clipsearch.search.embed import Aim, Embedded
from clipsearch.storage.collection import Level

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judgment:
    """What is known about a ranking; None for what is not."""

    verdict: Verdict | None = None
    """None for a probe, for a class, and before the first calibration of a collection."""
    rate: float | None = None
    """The share of unrelated queries that score as high."""
    strength: float | None = None
    """The strength of the text that decides the verdict, on the scale of the next two."""
    strong_from: float | None = None
    weak_from: float | None = None
    mean: float | None = None
    """The query's mean score over the searched images."""
    least: float = float("-inf")
    """The score at which the list ends."""
    compared_with: Literal["queries", "images"] = "queries"
    """What the rate is a share of: unrelated images, if an image decided the verdict."""


def judge(
    query: Embedded,
    ranked: Sequence[Hit],
    levels: Sequence[Level],
    tops: Sequence[Sequence[Floats]],
) -> Judgment:
    """Judge a ranking over several collections.

    ranked: hits, best first; not empty. levels: one for each collection that has images to search;
    empty until all are calibrated. tops: for each aim of the query and each of these collections,
    its best centered scores ``(k,)``.
    """
    if not levels or query.of_class is not None or query.kind == "probe":
        return Judgment()
    mean, unrelated = base(query, levels)
    least = cut.least_score(_best(query, ranked), mean, unrelated)
    found = [_of_aim(aim, levels, best) for aim, best in zip(query.aims, tops, strict=True)]
    if query.by_example:
        found.append(_of_example(ranked[0]))
    if not found:
        return Judgment(mean=mean, least=least)
    rate, measured = min(found, key=lambda pair: pair[0])
    said = verdict(rate)
    return Judgment(
        "weak" if query.by_example and said == "none" else said,
        rate,
        *measured,
        mean,
        least,
        "queries" if measured[0] is not None else "images",
    )


_Measured = tuple[float | None, float | None, float | None]
"""A strength, and the limits for strong and weak."""


def _of_aim(aim: Aim, levels: Sequence[Level], best: Sequence[Floats]) -> tuple[float, _Measured]:
    """The rate of a text, and the measurements behind it."""
    backgrounds = [level.background for level in levels]
    if len({background.words for background in backgrounds}) == 1:
        pooled = backgrounds[0] if len(levels) == 1 else Background.pooled(backgrounds)
        together = np.sort(np.concatenate(best))[::-1][:BEST]
        return _compared(aim, pooled, together)
    # The collections have different domains, so their background queries differ too.
    return min(
        (_compared(aim, *pair) for pair in zip(backgrounds, best, strict=True)),
        key=lambda pair: pair[0],
    )


def _compared(aim: Aim, background: Background, best: Floats) -> tuple[float, _Measured]:
    reached = float(strength(best[np.newaxis])[0])
    limits = background.reached(STRONG, aim.words), background.reached(WEAK, aim.words)
    return background.rate(reached, aim.words), (reached, *limits)


def _of_example(best: Hit) -> tuple[float, _Measured]:
    """For an image query, the share of unrelated images that are as near."""
    return (1.0 if best.false_alarm is None else best.false_alarm), (None, None, None)


def _best(query: Embedded, ranked: Sequence[Hit]) -> float:
    """The best score that counts for the cut: copies of a query image are ignored."""
    alone = query.by_example and not query.aims and not query.feedback
    others = (hit.score for hit in ranked if not alone or hit.score < NEAR_DUPLICATE)
    return next(others, ranked[0].score)


def base(query: Embedded, levels: Sequence[Level]) -> tuple[float, float]:
    """The mean scores of a query and of unrelated queries of its kind, over the images.

    The latter is known only for a single text, and infinite for any other query.
    """
    sizes = [level.images for level in levels]
    means = [query.vector @ level.mean for level in levels]
    mean = float(np.average(means, weights=sizes)) + query.offset
    if query.kind != "text" or len(query.aims) != 1 or query.offset or query.by_example:
        return mean, float("inf")
    unrelated = [level.centre @ level.mean for level in levels]
    return mean, float(np.average(unrelated, weights=sizes))
