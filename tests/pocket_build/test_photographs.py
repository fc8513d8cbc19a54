"""The judge of a ranking, against figures worked out by hand."""

import numpy as np
import pytest

from pocket_build.photographs import ranked


def test_a_ranking_is_judged() -> None:
    scores = np.array([0.9, 0.8, 0.5, 0.1, 0.2], np.float32)  # mean 0.5
    right = np.array([True, False, True, False, False])
    found = ranked(scores, right, 0.65)  # shows what scores at least 0.76
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.best_f1 == pytest.approx(2 * 2 / (3 + 2))
    assert found.cut_f1 == pytest.approx(2 * 1 / (2 + 2))
