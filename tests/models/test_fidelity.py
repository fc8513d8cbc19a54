"""Fast arithmetic is used only by models that keep their embeddings in it."""

import numpy as np
import pytest
import torch

from clipsearch.models import fidelity, open_clip
from clipsearch.models.choice import ModelChoice
from clipsearch.models.open_clip import OpenClipEncoder
from clipsearch.records import Preprocessing

SQUARE = Preprocessing((96, 96), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_probes_are_always_the_same_and_half_of_them_are_smooth() -> None:
    images = fidelity.probe_images(SQUARE)
    assert (images.shape, images.dtype) == ((4, 96, 96, 3), np.uint8)
    np.testing.assert_array_equal(images, fidelity.probe_images(SQUARE))
    steps = np.abs(np.diff(images.astype(int), axis=1)).max(axis=(1, 2, 3))
    assert steps[:2].min() > 100  # from cell to cell
    assert steps[2:].max() < 30  # a cell in 13 pixels
    full, faint = np.ptp(images[2:].astype(int), axis=(1, 2, 3))
    assert full > 200 > 100 > faint


def test_corners_of_smooth_probes_are_their_cells() -> None:
    cells = np.arange(2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)
    large = fidelity._enlarged(cells, 5, 9)
    np.testing.assert_allclose(large[::4, ::4], cells)
    np.testing.assert_allclose(large[2, ::4], cells.mean(axis=0))


def test_the_worst_cosine_counts() -> None:
    one = np.eye(3, dtype=np.float32)
    assert fidelity.worst(one, one) == 1
    assert fidelity.worst(one, one[[0, 2, 1]]) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_pocket_computes_in_fp32_on_every_processor(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(open_clip, "_choose_dtype", lambda _: dtype)
    assert OpenClipEncoder(ModelChoice("pocket").files(print), "cpu").dtype == torch.float32
