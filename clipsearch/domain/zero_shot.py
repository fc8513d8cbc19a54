"""Zero-shot classification: the embeddings of classes, and pictures or texts ranked with them.

The embedding of a class is that of the CLIP paper (Radford et al. 2021, section 3.1.4) and of
LAION's CLIP_benchmark: each prompt's embedding is normalised, they are averaged, and the mean is
normalised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.domain.taxonomy import Domain
from clipsearch.records import TextEncoder, Vectors
from clipsearch.vectors import l2_normalise

LOGIT_SCALE = 100.0
"""By what a cosine similarity is multiplied before the softmax, where the model does not say.

It is what CLIP's training is clipped at, what CLIP_benchmark uses for every model, and what the
published ViT-B-16 has learned, to within a rounding error.
"""

_TEXTS_PER_BATCH = 256


@dataclass(frozen=True, slots=True)
class Ranked:
    """A class or a text that was put in its place."""

    index: int
    """Its position in the list that was ranked."""
    name: str
    probability: float
    similarity: float
    """Cosine similarity."""


def encode_all(encoder: TextEncoder, texts: Sequence[str]) -> Vectors:
    """Embed any number of texts as ``(n, dim)`` unit vectors, a few at a time."""
    batches = [
        encoder.encode_texts(texts[start : start + _TEXTS_PER_BATCH])
        for start in range(0, len(texts), _TEXTS_PER_BATCH)
    ]
    return l2_normalise(np.concatenate(batches))


def class_embeddings(domain: Domain, encoder: TextEncoder) -> Vectors:
    """One unit vector for each class, ``(classes, dim)``: the ensemble over its prompts."""
    prompts = [domain.prompts(index) for index in range(len(domain.classes))]
    vectors = encode_all(encoder, [text for texts in prompts for text in texts])
    starts = np.cumsum([0, *map(len, prompts[:-1])])
    sums = np.add.reduceat(vectors, starts, axis=0)  # (classes, dim); the mean's direction
    return l2_normalise(sums)


def probabilities(
    queries: Vectors, keys: Vectors, logit_scale: float = LOGIT_SCALE
) -> npt.NDArray[np.float64]:
    """Softmax of the scaled similarities: ``(n, dim)`` and ``(m, dim)`` to ``(n, m)``.

    Each row sums to 1. They are shares among these keys alone: the softmax has no "none of them".
    """
    logits = logit_scale * (queries @ keys.T).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    shares: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def classify(
    images: Vectors,
    classes: Vectors,
    names: Sequence[str],
    k: int = 5,
    logit_scale: float = LOGIT_SCALE,
) -> list[list[Ranked]]:
    """The ``k`` most probable classes of each picture, best first; ties by the earlier class.

    images: ``(n, dim)``. classes: ``(classes, dim)``, as ``class_embeddings`` gives them.
    """
    similarities = images @ classes.T
    shares = probabilities(images, classes, logit_scale)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return [
        [Ranked(int(c), names[c], float(shares[n, c]), float(similarities[n, c])) for c in order[n]]
        for n in range(len(images))
    ]


def rank_texts(
    image: Vectors, texts: Sequence[str], vectors: Vectors, logit_scale: float = LOGIT_SCALE
) -> list[Ranked]:
    """Any list of texts in the order in which they fit a picture, best first.

    image: ``(dim,)``. vectors: ``(n, dim)``, the embeddings of ``texts``.
    """
    (ranking,) = classify(image[np.newaxis], vectors, texts, len(texts), logit_scale)
    return ranking
