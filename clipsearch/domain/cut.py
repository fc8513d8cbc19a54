"""Where to end the list: a cut in a ranking, relative to the query's own scores.

A query's scores range from the base, what an unrelated image scores, to its best score.
The list ends at the fraction ``SHARE`` of that range. The base is the mean score over the
collection, or the average score of unrelated texts, if that is lower: in a folder of dogs, the
mean of "a dog" is itself the score of hits.

Measured on photographs with several text towers, such a cut reaches 0.72 to 0.92 of the F1 of the
best cut of the same ranking, 0.8 on average. These alternatives were no better on average: the mean
of the two or three best instead of the best, the largest gap, Otsu's threshold, a share that
depends on the spread or on the verdict, a mixture with a fixed threshold, the F1 expected from the
scores, scores corrected for hubs, and learned combinations of all these.
"""

import numpy as np
import numpy.typing as npt

SHARE = 2 / 3
"""Fraction of the range from the base to the best score; F1 hardly differs from 0.65 to 0.7."""


def least_score(best: float, mean: float, unrelated: float = float("inf")) -> float:
    """The score at which a list ends, never above ``best``.

    best: the query's. mean: its mean score over the searched images, which is its
    inner product with their mean embedding. unrelated: the mean score of unrelated queries of
    the same kind over the same images, if known.
    """
    base = min(best, mean, unrelated)
    return min(best, base + SHARE * (best - base))


def length(scores: npt.ArrayLike, mean: float, unrelated: float = float("inf")) -> int:
    """How many results of a ranking belong to the answer: at least one, if there are any.

    scores: ``(k,)``, best first; the start of a ranking is enough. If all k belong to the answer,
    later ones may too. Images with the same score are all included or all excluded. mean,
    unrelated: see ``least_score``.
    """
    ranked = np.asarray(scores, np.float64)
    if not len(ranked):
        return 0
    least = least_score(float(ranked[0]), mean, unrelated)
    return int(np.searchsorted(-ranked, -least, side="right"))
