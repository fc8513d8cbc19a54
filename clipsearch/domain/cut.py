"""Where does the list end? A cut inside a ranking, relative to the query's own scores.

A query's scores run from what an image scores that has nothing to do with it, the base, up to
its best. The list ends at ``SHARE`` of that way. The base is the mean score over the collection,
or what unrelated texts score on average, if that is lower: in a folder of dogs the mean of
"a dog" is itself that of hits.

Measured on photographs with several text towers, such a cut reaches 0.72 to 0.92 of the F1 of the
best cut of the same ranking, 0.8 on average. Tried as well, and on average no better: the mean of
the two or three best in place of the best, the largest gap, Otsu's threshold, a share that depends
on the spread or on the verdict, a mixture with a flat threshold, the F1 expected from the scores,
scores corrected for hubs, and learned combinations of all these.
"""

import numpy as np
import numpy.typing as npt

SHARE = 2 / 3
"""Of the way from the base to the best score; between 0.65 and 0.7 F1 hardly differs."""


def least_score(best: float, mean: float, unrelated: float = float("inf")) -> float:
    """The score at which a list ends, never above ``best``.

    best: of the query. mean: its mean score over the images that are searched, which is its
    inner product with their mean embedding. unrelated: the mean score of unrelated queries of its
    kind over the same images, where it is known.
    """
    base = min(best, mean, unrelated)
    return min(best, base + SHARE * (best - base))


def length(scores: npt.ArrayLike, mean: float, unrelated: float = float("inf")) -> int:
    """How many of a ranking belong to the answer: at least one, if there are any.

    scores: ``(k,)``, best first; the start of a ranking will do. If all k belong to the answer,
    those that follow may too. Images of the same score are all in or all out. mean, unrelated:
    see ``least_score``.
    """
    ranked = np.asarray(scores, np.float64)
    if not len(ranked):
        return 0
    least = least_score(float(ranked[0]), mean, unrelated)
    return int(np.searchsorted(-ranked, -least, side="right"))
