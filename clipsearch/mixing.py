"""Several directions made into one query: each on the same scale, so that none swamps the others.

Texts and pictures lie in different parts of the space (the modality gap; Liang et al. 2022), and
similarities to a text spread less over a collection than similarities to a picture. A plain sum
of a text's and a picture's embedding is therefore ranked almost by the picture alone. So each
part is first taken from the mean of its own kind, and then divided by the standard deviation of
its scores over the collection: with the covariance C of the collection's embeddings, that of a
direction d is sqrt(d' C d). The sum of such parts is again a direction, and a search with it is
as exact as any other: the score of a picture is the weighted sum of its standard scores.

Last, the scores are given the mean that those of queries of its kind have, and a spread as much
above or below theirs as those of its parts are: a text that nothing resembles spreads little. So
they can be read, and their false-alarm rates looked up, as those of one such query.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.records import QueryKind, Vectors

_FLOOR = 1e-6
"""Added to every variance: the pictures of a collection of one do not vary."""
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


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured on a collection so that parts of queries can be compared."""

    images: int
    """How many pictures it was measured on."""
    covariance: npt.NDArray[np.float32]
    """``(dim, dim)``: of their embeddings."""
    means: Mapping[QueryKind, Vectors]
    """``(dim,)`` each: of the embeddings of texts, and of the pictures."""
    spreads: Mapping[QueryKind, float]
    """Standard deviation of the scores of a query of this kind over the pictures, on average."""

    @classmethod
    def measure(
        cls,
        chunks: Iterable[npt.NDArray[np.floating]],
        texts: Vectors,
        images: Vectors,
    ) -> "Scale":
        """From all embeddings of a collection, and from samples of queries of both kinds.

        chunks: ``(n, dim)`` each, any float dtype, at least one row in all. texts: ``(t, dim)``.
        images: ``(i, dim)``.
        """
        dim = texts.shape[1]
        count, total, products = 0, np.zeros(dim), np.zeros((dim, dim))
        for chunk in chunks:
            rows = chunk.astype(np.float32)
            count += len(rows)
            total += rows.sum(axis=0, dtype=np.float64)
            products += rows.T @ rows
        mean = total / count
        covariance = (products / count - np.outer(mean, mean)).astype(np.float32)
        means: dict[QueryKind, Vectors] = {
            "text": texts.mean(axis=0),
            "image": mean.astype(np.float32),
        }
        of_texts = _spreads(texts - means["text"], covariance).mean()
        of_images = _spreads(images - means["image"], covariance).mean()
        return cls(count, covariance, means, {"text": float(of_texts), "image": float(of_images)})

    @classmethod
    def pooled(cls, scales: Sequence["Scale"]) -> "Scale":
        """One for several collections, each counting as it has pictures."""
        if len(scales) == 1:
            return scales[0]
        shares = np.array([scale.images for scale in scales], np.float64)
        shares /= shares.sum()

        def mean(values: Sequence[npt.ArrayLike]) -> npt.NDArray[np.float32]:
            return np.tensordot(shares, np.stack(values), axes=1).astype(np.float32)

        image = mean([scale.means["image"] for scale in scales])
        apart = [scale.means["image"] - image for scale in scales]
        within = [scale.covariance + np.outer(d, d) for scale, d in zip(scales, apart, strict=True)]
        return cls(
            images=sum(scale.images for scale in scales),
            covariance=mean(within),
            means={"text": mean([scale.means["text"] for scale in scales]), "image": image},
            spreads={
                kind: float(shares @ [scale.spreads[kind] for scale in scales])
                for kind in scales[0].spreads
            },
        )

    def to_bytes(self) -> bytes:
        """To be kept; ``from_bytes`` is the inverse."""
        file = io.BytesIO()
        np.savez(
            file,
            images=np.array(self.images),
            covariance=self.covariance,
            text=self.means["text"],
            image=self.means["image"],
            spreads=np.array([self.spreads["text"], self.spreads["image"]]),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Scale":
        """What ``to_bytes`` kept. Raises ValueError, or whatever numpy and zipfile stumble over."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            covariance, of_texts, of_images, (text, image) = (
                arrays[name].astype(np.float32)
                for name in ("covariance", "text", "image", "spreads")
            )
            images = int(arrays["images"])
        dim = len(covariance)
        if (covariance.shape, of_texts.shape, of_images.shape) != ((dim, dim), (dim,), (dim,)):
            raise ValueError("the covariance and the means are not of one length")
        means: dict[QueryKind, Vectors] = {"text": of_texts, "image": of_images}
        return cls(images, covariance, means, {"text": float(text), "image": float(image)})

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return len(self.covariance)


class Mixture(NamedTuple):
    """A query of several parts; the score of a picture is ``picture @ vector + offset``."""

    vector: Vectors
    """``(dim,)``; its length is not 1."""
    offset: float
    kind: QueryKind
    """As what its scores are to be read: a text's if it goes towards one, else a picture's, else a
    probe's."""


def mix(parts: Sequence[Ingredient], scale: Scale) -> Mixture:
    """Make one query of several parts, of which one at least has a positive weight.

    Raises UsageError if nothing is left of them together.
    """
    direction = np.zeros(len(scale.covariance))
    towards = strength = length = 0.0
    for part in parts:
        centred = part.vector - scale.means.get(part.kind, np.float32(0))
        spread = _spread(centred, scale.covariance)
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
    vector = (own * direction / _spread(direction, scale.covariance)).astype(np.float32)
    return Mixture(vector, float((scale.means[kind] - vector) @ scale.means["image"]), kind)


def _spread(direction: npt.NDArray[np.floating], covariance: npt.NDArray[np.floating]) -> float:
    return float(_spreads(direction[np.newaxis], covariance)[0])


def _spreads(
    directions: npt.NDArray[np.floating], covariance: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Standard deviation over a collection of the inner products with ``(n, dim)``: ``(n,)``."""
    variances = np.einsum("nd,nd->n", directions @ covariance, directions)
    lengths = np.square(directions).sum(axis=1)
    spreads: npt.NDArray[np.float64] = np.sqrt(np.maximum(variances, 0) + _FLOOR * lengths)
    return np.maximum(spreads, _FLOOR)
