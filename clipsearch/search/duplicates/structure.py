"""Decide whether two small images show the same thing in the same place.

An image tower is trained to ignore such details. Photographs of two pandas can be more similar to
it than a photograph and its own copy, saved again. So the pairs that the embeddings propose are
compared by their pixels. Each image is reduced to 16 x 16 cells, and the changes of color from
cell to cell are compared. Perceptual hashes use the same idea (Krawetz 2013, dHash), but here the
result is a correlation instead of bits. It does not depend on brightness, contrast, size or
compression. A crop moves everything, so each image is also compared as if it had been cropped by 5
or 10%, on any side.

Pages, forms and screenshots need a stricter rule: they all have the same margins and lines, and
their text is smaller than a cell. Different ones agree by up to 0.98; copies that were saved again
or reduced agree by 0.996 and more (measured on pages of text and forms drawn for this purpose). So
images with a large area of uniform brightness must agree by ``DRAWN``, uncropped.

Measured on the 98 sample images: 0.94 and more for copies that were saved again, reduced,
brightened, or cropped by 5 or 10%. For different images, in 4,753 pairs: at most 0.6, and 0.7 if
one of them is also cropped.
"""

from itertools import product

import numpy as np
import numpy.typing as npt

from clipsearch.records import Pixels, Vectors

SIDE = 32
"""Width and height of the small images to compare."""

DRAWN = 0.99
"""The least agreement required of images that look drawn, not photographed."""

_CELLS = 16
_KEPT = (0.95, 0.9)
"""The share of width and height that a crop keeps."""
_STILL, _BAND, _DRAWN_SHARE = 2, 12, 0.2
"""A drawing hardly changes from pixel to pixel and has one brightness, within a band of levels,
over at least this share of the image. Paper that is lit from one side passes as a drawing. So does
one in five of the 73 photographs among the sample images, usually because of its sky."""
_FLAT = 8.0
"""An image whose cells differ by no more than this in total, of 255, has no structure."""


def looks_drawn(pixels: Pixels) -> npt.NDArray[np.bool_]:
    """Which of ``(n, SIDE, SIDE, 3)`` images have a large area of uniform brightness: ``(n,)``."""
    levels = pixels.astype(np.int16)
    still = np.abs(np.diff(levels, axis=2)).max(axis=3) <= _STILL
    shares = [
        np.convolve(np.bincount(level[at], minlength=256), np.ones(_BAND), "valid").max() / at.size
        for level, at in zip(levels[:, :, 1:].mean(axis=3).astype(np.int16), still, strict=True)
    ]
    return np.array(shares) >= _DRAWN_SHARE


def confirmed(these: Pixels, those: Pixels, agreement: float) -> npt.NDArray[np.bool_]:
    """Which of ``(n, SIDE, SIDE, 3)`` and ``(m, SIDE, SIDE, 3)`` are nearly the same: ``(n, m)``.

    agreement: the least agreement required of photographs.
    """
    own, others = windows(these), windows(those)
    drawn = looks_drawn(these)[:, np.newaxis] | looks_drawn(those)
    found = best_agreement(own, others) >= agreement
    found &= ~drawn | (own[0] @ others[0].T >= DRAWN)
    return found


def windows(pixels: Pixels) -> Vectors:
    """The vectors to compare for ``(n, SIDE, SIDE, 3)`` images: ``(w, n, d)``.

    The first of the ``w`` windows is the whole image; the others are crops of it. Each vector has
    unit length, or is zero if the image has no structure.
    """
    n, changes = len(pixels), _CELLS * (_CELLS - 1) * 3
    rows = pixels.reshape(n, SIDE, SIDE * 3).astype(np.float32)
    seen = []
    for top, left, kept in _WINDOWS:
        tall = _resampling(top, kept) @ rows  # (n, _CELLS, SIDE * 3)
        wide = tall.reshape(n, _CELLS, SIDE, 3).swapaxes(1, 2)
        cells = _resampling(left, kept) @ wide.reshape(n, SIDE, _CELLS * 3)
        cells = cells.reshape(n, _CELLS, _CELLS, 3)
        steps = [np.diff(cells, axis=axis).reshape(n, changes) for axis in (1, 2)]
        seen.append(np.concatenate(steps, axis=1))
    vectors: Vectors = np.stack(seen)
    lengths = np.linalg.norm(vectors, axis=2, keepdims=True)
    vectors /= np.maximum(lengths, _FLAT)
    vectors[lengths[..., 0] <= _FLAT] = 0
    return vectors


def best_agreement(these: Vectors, those: Vectors) -> Vectors:
    """How well each of ``(w, n, d)`` and each of ``(w, m, d)`` agree: ``(n, m)``.

    The correlation, at most 1, of one image with the other or with its best-fitting crop.
    """
    best: Vectors = these[0] @ those[0].T
    for window in range(1, len(these)):
        np.maximum(best, these[0] @ those[window].T, out=best)
        np.maximum(best, these[window] @ those[0].T, out=best)
    return best


def _resampling(start: float, kept: float) -> Vectors:
    """A matrix that averages part of an edge into cells, ``(_CELLS, SIDE)``."""
    edges = SIDE * np.linspace(start, start + kept, _CELLS + 1)
    pixels = np.arange(SIDE)
    ends = np.minimum(edges[1:, np.newaxis], pixels + 1)
    overlap = np.maximum(0, ends - np.maximum(edges[:-1, np.newaxis], pixels))
    means: Vectors = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return means


_WINDOWS = [(0.0, 0.0, 1.0)] + [
    ((1 - kept) * y, (1 - kept) * x, kept)
    for kept, y, x in product(_KEPT, (0.0, 0.5, 1.0), (0.0, 0.5, 1.0))
]
"""Top, left and size of each window, as shares of the image."""
