"""Several directions made into one query: each on the same scale, so that none swamps the others.

Texts and images lie in different parts of the space (the modality gap; Liang et al. 2022), and
similarities to a text spread less over a collection than similarities to an image. A plain sum
of a text's and an image's embedding is therefore ranked almost by the image alone. So each
part is first taken from the mean of its own kind, and then divided by the standard deviation of
its scores over the collection: with the covariance C of the collection's embeddings, that of a
direction d is sqrt(d' C d). The sum of such parts is again a direction, and a search with it is
as exact as any other: the score of an image is the weighted sum of its standard scores.

Last, the scores are given the mean that those of queries of its kind have, and a spread as much
above or below theirs as those of its parts are: a text that nothing resembles spreads little. So
they can be read, and their false-alarm rates looked up, as those of one such query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clipsearch.domain.scale import Scale, deviation
from clipsearch.errors import UsageError
from clipsearch.records import QueryKind, Vectors

_ROUNDING = 1e-5
"""What is shorter than this share of its parts is what rounding left of them."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One part of a mixture."""

    vector: Vectors
    """``(dim,)``: an embedding; of a probe, its direction."""
    kind: QueryKind
    weight: float
    """Negative: away from it."""


class Mixture(NamedTuple):
    """A query of several parts; the score of an image is ``picture @ vector + offset``."""

    vector: Vectors
    """``(dim,)``; its length is not 1."""
    offset: float
    kind: QueryKind
    """As what its scores are to be read: a text's if it goes towards one, else an image's, else a
    probe's."""


def mix(parts: Sequence[Ingredient], scale: Scale) -> Mixture:
    """Make one query of several parts, of which one at least has a positive weight.

    Raises UsageError if nothing is left of them together.
    """
    direction = np.zeros(len(scale.covariance))
    towards = strength = length = 0.0
    for part in parts:
        centred = part.vector - scale.means.get(part.kind, np.float32(0))
        spread = deviation(centred, scale.covariance)
        direction += part.weight * centred / spread
        length += abs(part.weight) * float(np.linalg.norm(centred)) / spread
        if part.weight > 0:
            towards += part.weight
            strength += part.weight * spread / scale.spreads.get(part.kind, spread)
    if np.linalg.norm(direction) <= _ROUNDING * length:
        raise UsageError(
            "the parts of the query cancel each other out",
            hint="Leave one of them out, or give it another weight.",
        )
    kinds = {part.kind for part in parts if part.weight > 0}
    kind: QueryKind = next((kind for kind in scale.means if kind in kinds), "probe")
    if kind == "probe":
        return Mixture((direction / np.linalg.norm(direction)).astype(np.float32), 0.0, kind)
    own = scale.spreads[kind] * strength / towards
    vector = (own * direction / deviation(direction, scale.covariance)).astype(np.float32)
    return Mixture(vector, float((scale.means[kind] - vector) @ scale.means["image"]), kind)
