"""The inputs that two arithmetics are compared on, and how much the faster one may deviate.

Noisy images alone would hide the error: rounding to bf16 affects smooth, faint images (a clear sky,
fog, an enlarged thumbnail). In an EfficientNet their cosine was 0.63, and 0.9992 for noisy ones.
"""

import numpy as np
import numpy.typing as npt

from clipsearch.records import Pixels, Preprocessing, Vectors

_Floats = npt.NDArray[np.float32]

IMAGES = 0.99
"""The least cosine between an image's embedding in fast arithmetic and in fp32."""

TEXTS = 0.9999
"""The same for a text. It is stricter, because texts measure whole collections."""

PROBE_TEXTS = (
    *("", "12:34", "a photo of a dog.", "a close-up photo of the washing machine.", "an old boat"),
    *("quarterly tax report with charts", "two people on a river in autumn, seen from a bridge"),
)

_CELLS = 8
_NOISE = 16
_CONTRASTS = (1.0, 0.3)


def probe_images(preprocessing: Preprocessing) -> Pixels:
    """Four images ``(4, height, width, 3)``, always the same: two noisy ones, two smooth."""
    height, width = preprocessing.size
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (2, _CELLS, _CELLS, 3)).astype(np.float32)
    rows, columns = np.arange(height) * _CELLS // height, np.arange(width) * _CELLS // width
    blocks = cells[:, rows][:, :, columns]
    noisy = blocks + rng.normal(0, _NOISE, blocks.shape)
    smooth = [
        128 + contrast * (_enlarged(image, height, width) - 128)
        for image, contrast in zip(cells, _CONTRASTS, strict=True)
    ]
    pixels: Pixels = np.clip(np.concatenate([noisy, smooth]), 0, 255).astype(np.uint8)
    return pixels


def worst(some: Vectors, others: Vectors) -> float:
    """The least cosine between corresponding unit vectors ``(n, dim)``."""
    return float((some * others).sum(axis=1).min())


def _enlarged(image: _Floats, height: int, width: int) -> _Floats:
    """Linear interpolation of ``(rows, columns, 3)`` to ``(height, width, 3)``."""
    for axis, size in enumerate((height, width)):
        at = np.linspace(0, image.shape[axis] - 1, size, dtype=np.float32)
        low = np.minimum(at.astype(int), image.shape[axis] - 2)
        share = np.expand_dims(at - low, [other for other in range(3) if other != axis])
        image = np.take(image, low, axis) * (1 - share) + np.take(image, low + 1, axis) * share
    return image
