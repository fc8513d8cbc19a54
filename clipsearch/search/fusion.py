"""Combine several directions into one query, on one scale, so that none dominates the others.

Texts and images lie in different parts of the space (the modality gap; Liang et al. 2022), and
similarities to a text vary less over a collection than similarities to an image. A plain sum of
a text's and an image's embedding is therefore ranked almost by the image alone. So each part is
first centered on the mean of its own kind, and then divided by the standard deviation of its
scores over the collection. With the covariance C of the collection's embeddings, the standard
deviation for a direction d is sqrt(d' C d). The sum of such parts is again a direction, and a
search with it is exact: the score of an image is the weighted sum of its standard scores.

Finally, the scores are rescaled. They get the mean of queries of the same kind. Their spread
differs from the usual one by as much as the spreads of the parts do: the scores of a text that
resembles nothing vary little. The scores and false-alarm rates can then be read like those of a
single query of that kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clipsearch.domain.scale import Scale, deviation
from clipsearch.errors import UsageError
from clipsearch.records import QueryKind, Vectors

_ROUNDING = 1e-5
"""A sum that is shorter than this share of its parts is rounding error."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One part of a mixture."""

    vector: Vectors
    """``(dim,)``: an embedding, or the direction of a probe."""
    kind: QueryKind
    weight: float
    """Negative to search away from it."""


class Mixture(NamedTuple):
    """A query of several parts; the score of an image is ``picture @ vector + offset``."""

    vector: Vectors
    """``(dim,)``; its length is not 1."""
    offset: float
    kind: QueryKind
    """How to read its scores: as a text's if any wanted part is a text, else as an image's if any
    is an image, else as a probe's."""


def mix(parts: Sequence[Ingredient], scale: Scale) -> Mixture:
    """Combine several parts, at least one of them with a positive weight, into one query.

    Raises UsageError if the parts cancel each other out.
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
            hint="Remove one of them, or give it another weight.",
        )
    kinds = {part.kind for part in parts if part.weight > 0}
    kind: QueryKind = next((kind for kind in scale.means if kind in kinds), "probe")
    if kind == "probe":
        return Mixture((direction / np.linalg.norm(direction)).astype(np.float32), 0.0, kind)
    own = scale.spreads[kind] * strength / towards
    vector = (own * direction / deviation(direction, scale.covariance)).astype(np.float32)
    return Mixture(vector, float((scale.means[kind] - vector) @ scale.means["image"]), kind)
