"""Learning curves: larger parts hold smaller ones, and nothing is tested that was learned."""

import re
from itertools import pairwise

import numpy as np
import pytest

from clipsearch.errors import TooFewExamples
from clipsearch.evaluation import curve as curves
from clipsearch.evaluation.curve import Curve, Point, Spread, learning_curve
from clipsearch.evaluation.logistic import Floats
from clipsearch.records import Vectors
from clipsearch.vectors import l2_normalise

NAMES = ["crack", "dent", "hole"]


def labelled_set(counts: list[int], words: float = 0.3) -> tuple[Vectors, list[int], Floats]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    directions = l2_normalise(rng.normal(size=(len(counts), 12)))
    noise = rng.normal(size=(len(labels), 12))
    images = l2_normalise(directions[labels] + noise / 2)
    texts = l2_normalise(words * directions + rng.normal(size=directions.shape) / 3)
    return images, labels.tolist(), texts.astype(np.float64)


def test_more_pictures_bring_more_and_it_says_how_much() -> None:
    images, labels, words = labelled_set([25, 20, 12])
    steps: list[tuple[int, int]] = []
    found = learning_curve(images, labels, NAMES, words, lambda _, *step: steps.append(step))
    assert [point.per_class for point in found.points] == [1, 2, 4, 8, 16, None]
    assert [point.images for point in found.points] == [3, 6, 12, 24, 16 + 16 + 10, 20 + 16 + 10]
    assert found.tested == 5 + 4 + 2
    assert len(steps) == found.draws * len(found.points)
    first, last = found.points[0].accuracy, found.points[-1].accuracy
    assert last.mean > max(first.mean, found.zero_shot.mean)
    assert found.last_gain is not None
    assert found.last_gain.mean == pytest.approx(last.mean - found.points[-2].accuracy.mean)
    again = learning_curve(images, labels, NAMES, words)
    assert again == found


def test_pictures_that_are_tested_on_are_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, words = labelled_set([9, 7, 1])
    seen: list[set[bytes]] = []
    learn = curves.learn

    def watched(some: Vectors, *rest: object) -> object:
        seen.append({image.tobytes() for image in some})
        return learn(some, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(curves, "learn", watched)
    found = learning_curve(images, labels, NAMES, words)
    sizes = len(found.points)
    for draw in range(found.draws):
        parts = seen[draw * sizes : (draw + 1) * sizes]
        assert all(small < large for small, large in pairwise(parts))
        assert len(parts[-1]) == len(images) - found.tested
        assert images[-1].tobytes() in parts[0]  # a class of one image is only learned from
    assert len({frozenset(part) for part in seen[sizes - 1 :: sizes]}) > 1


@pytest.mark.parametrize("counts", [[5, 1, 1], [1, 1, 1], [3, 0, 0]])
def test_too_few_to_learn_and_to_test(counts: list[int]) -> None:
    with pytest.raises(TooFewExamples, match="two classes with two images"):
        learning_curve(*labelled_set(counts)[:2], NAMES, labelled_set(counts)[2])


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Spread(0.031, 0.01), r"from 8 to 20 images brought \+3\.1 points .*: more labels are"),
        (Spread(0.01, 0.03), r"\+1\.0 points .* which may be chance: more labels may not help"),
        (Spread(-0.02, 0.01), "-2.0 points .* may not help"),
        (None, "too few images to say"),
    ],
)
def test_it_says_whether_more_labels_would_help(gain: Spread | None, said: str) -> None:
    flat = Spread(0.5, 0.1)
    points = (Point(4, 8, flat), Point(None, 20, flat))
    assert re.search(said, Curve(2, points, flat, 5, 10, gain).said)
