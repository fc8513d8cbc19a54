"""Zero-shot classification: class embeddings, and ranking images or texts with them.

The embedding of a class is that of the CLIP paper (Radford et al. 2021, section 3.1.4) and of
LAION's CLIP_benchmark: the embeddings of its prompts are normalized and averaged, and the mean is
normalized.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.domain.taxonomy import Domain
from clipsearch.records import TextEncoder, Vectors
from clipsearch.vectors import l2_normalise

LOGIT_SCALE = 100.0
"""The factor on cosine similarities before the softmax, if the model has none.

CLIP's training clips at this value, CLIP_benchmark uses it for every model, and the
published ViT-B-16 learned it, to within a rounding error.
"""

_TEXTS_PER_BATCH = 1024
"""Enough for most shared prefixes, which the text tower computes once per batch."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A class or a text with its rank."""

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

    Each row sums to 1. These are shares among the given keys: the softmax has no "none of them".
    """
    logits = logit_scale * (queries @ keys.T).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    shares: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def fit_logit_scale(images: Vectors, classes: Vectors, labels: npt.ArrayLike) -> float:
    """The logit scale, from 1 to ``LOGIT_SCALE``, with the lowest log loss on labeled images.

    This is temperature scaling (Guo et al. 2017): it does not change rankings, and makes a
    probability of 0.8 right about four times in five. Some models need it badly: ``pocket`` was
    trained without a logit scale. images: ``(n, dim)``. classes: ``(classes, dim)``.
    labels: ``(n,)``.
    """
    actual = np.asarray(labels, np.int64)
    scores = (images @ classes.T).astype(np.float64)  # (n, classes)
    ahead = scores - scores[np.arange(len(scores)), actual][:, np.newaxis]
    top = ahead.max(axis=1, keepdims=True)

    def loss(scale: float) -> float:
        shifted = np.exp(scale * (ahead - top)).sum(axis=1)
        return float((np.log(shifted) + scale * top[:, 0]).mean())

    low, high = 1.0, LOGIT_SCALE  # the loss is convex in the scale: narrow down its minimum
    while high - low > 0.01:
        third = (high - low) / 3
        if loss(low + third) < loss(high - third):
            high -= third
        else:
            low += third
    return round((low + high) / 2, 2)


def classify(
    images: Vectors,
    classes: Vectors,
    names: Sequence[str],
    k: int = 5,
    logit_scale: float = LOGIT_SCALE,
) -> list[list[Ranked]]:
    """The ``k`` most probable classes of each image, best first; ties by the earlier class.

    images: ``(n, dim)``. classes: ``(classes, dim)``, from ``class_embeddings``, or the
    embeddings of any texts. names: theirs.
    """
    similarities = images @ classes.T
    shares = probabilities(images, classes, logit_scale)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return [
        [Ranked(int(c), names[c], float(shares[n, c]), float(similarities[n, c])) for c in order[n]]
        for n in range(len(images))
    ]
