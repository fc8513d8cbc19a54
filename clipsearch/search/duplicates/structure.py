"""Whether two small images show the same thing in the same place.

An image tower is made to see past what this is about: two pandas are one to it, and the same
panda, saved again, need not be. So what the embeddings propose is looked at. An image is reduced
to 16 x 16 cells, and what is compared is how its colors change from each cell to the next, as
perceptual hashes do (Krawetz 2013, dHash), but as a correlation and not in bits: it does not depend
on brightness and contrast, on size or compression. A crop moves everything, so each image is
also compared as it would be if it had been cropped by 5 or 10%, at any side.

Pages, forms and screenshots are another matter: all have the same margins and lines, and what is
written in them is smaller than a cell. Different ones agree by up to 0.98, and copies of one that
were saved again or made smaller by 0.996 and more (measured on pages of text and forms drawn for
it). So what is of one brightness in good part, as these are, must
agree by ``DRAWN``, uncropped.

Measured on the 98 sample images: 0.94 and more for copies that were saved again, made smaller or
brighter, or cropped by 5 or 10%; at most 0.6 for any two different ones, of 4,753 pairs, and 0.7
if one of them is cropped as well.
"""

from itertools import product

import numpy as np
import numpy.typing as npt

from clipsearch.records import Pixels, Vectors

SIDE = 32
"""Width and height of the small images that are compared."""

DRAWN = 0.99
"""The least agreement of images that look drawn and not photographed."""

_CELLS = 16
_KEPT = (0.95, 0.9)
"""What a crop leaves of the width and of the height."""
_STILL, _BAND, _DRAWN_SHARE = 2, 12, 0.2
"""What is drawn hardly changes from one pixel to the next, is as bright to within a band of levels,
and is so in this share of the image at least. Paper that is lit from one side passes; of the 73
photographs among the sample images, one in five does, most of them for their skies."""
_FLAT = 8.0
"""An image whose cells differ by no more than this in all, of 255, has no structure to compare."""


def looks_drawn(pixels: Pixels) -> npt.NDArray[np.bool_]:
    """Which of ``(n, SIDE, SIDE, 3)`` images are of one brightness in good part: ``(n,)``."""
    levels = pixels.astype(np.int16)
    still = np.abs(np.diff(levels, axis=2)).max(axis=3) <= _STILL
    shares = [
        np.convolve(np.bincount(level[at], minlength=256), np.ones(_BAND), "valid").max() / at.size
        for level, at in zip(levels[:, :, 1:].mean(axis=3).astype(np.int16), still, strict=True)
    ]
    return np.array(shares) >= _DRAWN_SHARE


def confirmed(these: Pixels, those: Pixels, agreement: float) -> npt.NDArray[np.bool_]:
    """Which of ``(n, SIDE, SIDE, 3)`` and ``(m, SIDE, SIDE, 3)`` are nearly the same: ``(n, m)``.

    agreement: the least that is asked of photographs.
    """
    own, others = windows(these), windows(those)
    drawn = looks_drawn(these)[:, np.newaxis] | looks_drawn(those)
    found = best_agreement(own, others) >= agreement
    found &= ~drawn | (own[0] @ others[0].T >= DRAWN)
    return found


def windows(pixels: Pixels) -> Vectors:
    """What is compared of ``(n, SIDE, SIDE, 3)`` images: ``(w, n, d)``.

    The first of the ``w`` is the whole image, the others are crops of it. Each is a unit vector,
    or all zeros if the image has no structure.
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
    """How far each of ``(w, n, d)`` and each of ``(w, m, d)`` show the same: ``(n, m)``.

    The correlation, at most 1, of one with the other or with that of its crops which fits best.
    """
    best: Vectors = these[0] @ those[0].T
    for window in range(1, len(these)):
        np.maximum(best, these[0] @ those[window].T, out=best)
        np.maximum(best, these[window] @ those[0].T, out=best)
    return best


def _resampling(start: float, kept: float) -> Vectors:
    """Means over the cells of a part of an edge, ``(_CELLS, SIDE)``."""
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
