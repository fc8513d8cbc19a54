"""Statistics of a collection that make the parts of a query comparable."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.records import QueryKind, Vectors

_FLOOR = 1e-6
"""Added to every variance: a collection with one image has no variation."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Statistics of a collection that make the parts of a query comparable."""

    images: int
    """How many images it was measured on."""
    covariance: npt.NDArray[np.float32]
    """``(dim, dim)``: the covariance of their embeddings."""
    means: Mapping[QueryKind, Vectors]
    """``(dim,)`` each: the mean embedding of the texts, and of the images."""
    spreads: Mapping[QueryKind, float]
    """Mean standard deviation of the scores of a query of this kind over the images."""

    @classmethod
    def measure(
        cls,
        chunks: Iterable[npt.NDArray[np.floating]],
        texts: Vectors,
        images: Vectors,
    ) -> "Scale":
        """Measure on all embeddings of a collection, and on samples of both kinds of queries.

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
        """One scale for several collections, weighted by their numbers of images."""
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
        """Serialize; the inverse of ``from_bytes``."""
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
        """Deserialize. Raises ValueError, or whatever numpy and zipfile run into."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            covariance, of_texts, of_images, (text, image) = (
                arrays[name].astype(np.float32)
                for name in ("covariance", "text", "image", "spreads")
            )
            images = int(arrays["images"])
        dim = len(covariance)
        if (covariance.shape, of_texts.shape, of_images.shape) != ((dim, dim), (dim,), (dim,)):
            raise ValueError("the covariance and the means differ in length")
        means: dict[QueryKind, Vectors] = {"text": of_texts, "image": of_images}
        return cls(images, covariance, means, {"text": float(text), "image": float(image)})

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return len(self.covariance)


def deviation(direction: npt.NDArray[np.floating], covariance: npt.NDArray[np.floating]) -> float:
    """Standard deviation over a collection of the inner products with one ``(dim,)`` direction."""
    return float(_spreads(direction[np.newaxis], covariance)[0])


def _spreads(
    directions: npt.NDArray[np.floating], covariance: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Standard deviation over a collection of the inner products with ``(n, dim)``: ``(n,)``."""
    variances = np.einsum("nd,nd->n", directions @ covariance, directions)
    lengths = np.square(directions).sum(axis=1)
    spreads: npt.NDArray[np.float64] = np.sqrt(np.maximum(variances, 0) + _FLOOR * lengths)
    return np.maximum(spreads, _FLOOR)
