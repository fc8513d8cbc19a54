"""Measures against CLIP_benchmark's definitions, written out again, and against scikit-learn."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.errors import TooFewExamples
from clipsearch.evaluation import metrics
from clipsearch.evaluation.metrics import (
    evaluate_classification,
    evaluate_multi_label,
    evaluate_retrieval,
    to_data,
)
from clipsearch.records import Vectors
from clipsearch.vectors import l2_normalise


def random_set(
    seed: int, n: int = 60, classes: int = 12, noise: float = 1.0
) -> tuple[Vectors, Vectors, list[int], list[str]]:
    """Images of classes, some of them hard; the last class has no image."""
    rng = np.random.default_rng(seed)
    directions = l2_normalise(rng.normal(size=(classes, 24)))
    labels = rng.integers(0, classes - 1, n)
    images = l2_normalise(directions[labels] + noise * rng.normal(size=(n, 24)) / 3)
    return images, directions, labels.tolist(), [f"class {c}" for c in range(classes)]


# -- CLIP_benchmark's definitions, in plain Python -----------------------------------------------


def accuracy_at(scores: Vectors, labels: list[int], k: int) -> float:
    """zeroshot_classification.accuracy: the target is among the top k logits."""
    right = 0
    for row, label in zip(scores, labels, strict=True):
        top = sorted(range(len(row)), key=lambda c: -row[c])[:k]
        right += label in top
    return right / len(labels)


def balanced_accuracy(scores: Vectors, labels: list[int]) -> float:
    """sklearn.metrics.balanced_accuracy_score, which zeroshot_classification calls."""
    recalls = []
    for c in sorted(set(labels)):
        own = [n for n, label in enumerate(labels) if label == c]
        recalls.append(sum(int(scores[n].argmax()) == c for n in own) / len(own))
    return sum(recalls) / len(recalls)


def average_precision(scores: list[float], truth: list[bool]) -> float:
    """zeroshot_classification.average_precision_per_class, for one class."""
    order = sorted(range(len(scores)), key=lambda n: -scores[n])
    found, precisions = 0, []
    for rank, n in enumerate(order, start=1):
        if truth[n]:
            found += 1
            precisions.append(found / rank)
    return sum(precisions) / max(found, 1)


def recall_at(scores: Vectors, positive: np.ndarray, k: int) -> float:
    """zeroshot_retrieval: 1 for a row with a positive among its top k, averaged over rows."""
    hits = 0
    for row, right in zip(scores, positive, strict=True):
        top = sorted(range(len(row)), key=lambda c: -row[c])[:k]
        hits += any(right[c] for c in top)
    return hits / len(scores)


@pytest.mark.parametrize("seed", range(5))
def test_classification_is_clip_benchmarks(seed: int) -> None:
    images, classes, labels, names = random_set(seed)
    scores = images @ classes.T
    got = evaluate_classification(images, classes, labels, names)
    assert got.top1.value == pytest.approx(accuracy_at(scores, labels, 1), abs=1e-6)
    assert got.top5 is not None
    assert got.top5.value == pytest.approx(accuracy_at(scores, labels, 5), abs=1e-6)
    assert got.mean_per_class_recall.value == pytest.approx(
        balanced_accuracy(scores, labels), abs=1e-6
    )
    precisions = [
        average_precision(scores[:, c].tolist(), [label == c for label in labels])
        for c in range(len(names))
    ]
    for c, result in enumerate(got.per_class):
        if c in labels:
            assert result.average_precision == pytest.approx(precisions[c], abs=1e-6)
        else:
            assert result.average_precision is None
    occurring = [precisions[c] for c in sorted(set(labels))]
    assert got.mean_average_precision.value == pytest.approx(np.mean(occurring), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_is_clip_benchmarks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 40
    owner = np.sort(np.concatenate([np.arange(n), rng.integers(0, n, 60)]))
    images = l2_normalise(rng.normal(size=(n, 16)))
    captions = l2_normalise(images[owner] + rng.normal(size=(len(owner), 16)) / 2)
    scores = captions @ images.T
    positive = owner[:, np.newaxis] == np.arange(n)
    got = evaluate_retrieval(images, captions, owner.tolist())
    assert got.images == n
    assert got.captions == 100
    for k in (1, 5, 10):
        assert got.image_recall[k].value == pytest.approx(recall_at(scores, positive, k), abs=1e-6)
        assert got.text_recall[k].value == pytest.approx(
            recall_at(scores.T, positive.T, k), abs=1e-6
        )


@pytest.mark.process  # torch starts one
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(3))
def test_against_clip_benchmarks_own_functions(seed: int) -> None:
    pytest.importorskip("clip_benchmark")  # before torch, which nothing else here would load
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    retrieval = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    images, classes, labels, names = random_set(seed)
    logits, target = torch.tensor(100 * images @ classes.T), torch.tensor(labels)
    got = evaluate_classification(images, classes, labels, names)
    top = logits.topk(5, 1, True, True)[1] == target[:, None]  # as its accuracy() has it
    assert got.top1.value == pytest.approx(top[:, :1].any(1).float().mean().item(), abs=1e-6)
    assert got.top5 is not None
    assert got.top5.value == pytest.approx(top.any(1).float().mean().item(), abs=1e-6)
    recall = classification.balanced_accuracy_score(target, logits.argmax(axis=1))
    assert got.mean_per_class_recall.value == pytest.approx(recall, abs=1e-6)
    one_hot = torch.nn.functional.one_hot(target, len(names))
    per_class = classification.average_precision_per_class(logits, one_hot)[:-1]
    assert got.mean_average_precision.value == pytest.approx(per_class.mean().item(), abs=1e-6)
    owner = np.repeat(np.arange(len(images)), 2)
    captions = l2_normalise(images[owner] + np.random.default_rng(seed).normal(size=(120, 24)) / 4)
    scores = torch.tensor(captions @ images.T)
    positive = torch.tensor(owner[:, np.newaxis] == np.arange(len(images)))
    report = evaluate_retrieval(images, captions, owner.tolist())
    for k in (1, 5, 10):
        of_images = (retrieval.recall_at_k(scores, positive, k) > 0).float().mean().item()
        of_texts = (retrieval.recall_at_k(scores.T, positive.T, k) > 0).float().mean().item()
        assert report.image_recall[k].value == pytest.approx(of_images, abs=1e-6)
        assert report.text_recall[k].value == pytest.approx(of_texts, abs=1e-6)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    images, classes, labels, names = random_set(seed)
    scores = images @ classes.T
    predicted = scores.argmax(axis=1)
    got = evaluate_classification(images, classes, labels, names)
    assert got.mean_per_class_recall.value == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted), abs=1e-6
    )
    precision, recall, _, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(len(names)), zero_division=0
    )
    for c, result in enumerate(got.per_class):
        assert result.images == support[c]
        if result.recall is not None:
            assert result.recall.value == pytest.approx(recall[c], abs=1e-6)
            truth = np.array(labels) == c
            assert result.average_precision == pytest.approx(
                metrics.average_precision_score(truth, scores[:, c]), abs=1e-6
            )
        if result.precision is not None:
            assert result.precision.value == pytest.approx(precision[c], abs=1e-6)
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(len(names)))
    for confusion in got.confusions:
        actual, given = names.index(confusion.actual), names.index(confusion.predicted)
        assert matrix[actual, given] == confusion.count
    assert sum(c.count for c in got.confusions) == matrix.sum() - np.trace(matrix)


class TestClassification:
    def test_by_hand(self) -> None:
        classes = np.eye(3, dtype=np.float32)
        images = l2_normalise([[3, 1, 0], [2, 3, 0], [0, 3, 1], [1, 0, 3]])
        got = evaluate_classification(images, classes, [0, 0, 1, 1], ["a", "b", "c"])
        assert got.top1.value == 0.5
        assert got.top5 is None
        assert got.predicted == (0, 1, 1, 2)
        assert got.mean_per_class_recall.value == 0.5
        a, b, c = got.per_class
        assert (a.images, a.predicted) == (2, 1)
        assert a.recall is not None
        assert a.precision is not None
        assert (a.recall.value, a.precision.value) == (0.5, 1.0)
        assert b.precision is not None
        assert b.precision.value == 0.5
        assert (c.images, c.recall, c.average_precision) == (0, None, None)
        assert c.precision is not None
        assert c.precision.value == 0.0
        assert [(x.actual, x.predicted, x.count) for x in got.confusions] == [
            ("a", "b", 1),
            ("b", "c", 1),
        ]

    def test_perfect(self) -> None:
        classes = np.eye(6, dtype=np.float32)
        got = evaluate_classification(classes, classes, list(range(6)), list("abcdef"))
        assert got.measures() == {
            "top1": 1,
            "top5": 1,
            "mean_per_class_recall": 1,
            "mean_average_precision": 1,
            "images": 6,
        }
        assert got.confusions == ()
        assert got.top1.low < 0.7

    def test_says_what_limits_it(self) -> None:
        images, classes, labels, names = random_set(0)
        notes = evaluate_classification(images[:3], classes, labels[:3], names).notes
        assert any("have no image in this test set" in note for note in notes)
        assert any("have a single image" in note for note in notes)

    def test_nothing_to_evaluate(self) -> None:
        empty = np.empty((0, 3), np.float32)
        with pytest.raises(TooFewExamples):
            evaluate_classification(empty, np.eye(3, dtype=np.float32), [], ["a", "b", "c"])

    def test_ties_go_to_the_earlier_class(self) -> None:
        classes = l2_normalise([[1, 0], [1, 0], [0, 1]])
        got = evaluate_classification(classes[:1], classes, [1], ["a", "b", "c"])
        assert got.predicted == (0,)
        assert got.top1.value == 0

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 12))
    def test_measures_keep_their_bounds(self, seed: int, n: int, classes: int) -> None:
        images, directions, labels, names = random_set(seed, n, classes)
        got = evaluate_classification(images, directions, labels, names)
        if got.top5 is not None:
            assert got.top5.value >= got.top1.value
        for estimate in (got.top1, got.mean_per_class_recall, got.mean_average_precision):
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert sum(result.images for result in got.per_class) == n
        assert sum(result.predicted for result in got.per_class) == n
        right = round(got.top1.value * n)
        assert right + sum(confusion.count for confusion in got.confusions) == n


class TestSeveralLabels:
    @pytest.mark.parametrize("seed", range(3))
    def test_mean_average_precision_is_scikit_learns(self, seed: int) -> None:
        metrics = pytest.importorskip("sklearn.metrics")
        images, classes, _, names = random_set(seed)
        shown = np.random.default_rng(seed).random((len(images), len(names))) < 0.2
        shown[:, -1] = False
        got = evaluate_multi_label(images, classes, shown, names)
        scores = images @ classes.T
        expected = [metrics.average_precision_score(shown[:, c], scores[:, c]) for c in range(11)]
        assert got.mean_average_precision.value == pytest.approx(np.mean(expected), abs=1e-6)
        for result, average in zip(got.per_class, expected, strict=False):
            assert result.average_precision == pytest.approx(average, abs=1e-6)
        assert got.per_class[-1].average_precision is None
        assert (got.images, got.labels, got.classes) == (60, shown.sum(), 12)
        assert got.measures().keys() == {"mean_average_precision", "images"}
        assert to_data(got)["kind"] == "multi-label classification"

    def test_one_label_each_is_the_single_label_figure(self) -> None:
        images, classes, labels, names = random_set(1)
        shown = np.eye(len(names), dtype=bool)[labels]
        single = evaluate_classification(images, classes, labels, names).mean_average_precision
        several = evaluate_multi_label(images, classes, shown, names).mean_average_precision
        assert several.value == pytest.approx(single.value, abs=1e-9)
        assert several.high - several.low == pytest.approx(single.high - single.low, rel=0.35)

    def test_the_interval_is_that_of_the_bootstrap(self) -> None:
        rng = np.random.default_rng(4)
        images, classes, _, names = random_set(4, n=150)
        shown = images @ classes.T + 0.3 * rng.normal(size=(150, 12)) > 0.25
        got = evaluate_multi_label(images, classes, shown, names).mean_average_precision
        samples = [rng.integers(0, 150, 150) for _ in range(200)]
        values = [
            evaluate_multi_label(images[s], classes, shown[s], names).mean_average_precision.value
            for s in samples
        ]
        assert (got.high - got.low) / (2 * 1.96) == pytest.approx(np.std(values), rel=0.25)

    def test_nothing_shown(self) -> None:
        eye = np.eye(3, dtype=np.float32)
        with pytest.raises(TooFewExamples):
            evaluate_multi_label(eye, eye, np.zeros((3, 3), bool), list("abc"))


class TestRetrieval:
    def test_larger_than_a_block(self) -> None:
        rng = np.random.default_rng(0)
        n = metrics._ROWS_AT_ONCE + 50
        images = l2_normalise(rng.normal(size=(n, 8)))
        got = evaluate_retrieval(images, images, list(range(n)))
        assert got.image_recall[1].value == got.text_recall[1].value == 1

    def test_equal_captions_are_ranked_in_order(self) -> None:
        images = np.eye(2, dtype=np.float32)
        captions = l2_normalise([[1, 1], [1, 1]])
        got = evaluate_retrieval(images, captions, [0, 1], ks=(1,))
        assert got.image_recall[1].value == 0.5
        assert got.text_recall[1].value == 0.5

    def test_a_picture_without_a_caption(self) -> None:
        images = np.eye(3, dtype=np.float32)
        with pytest.raises(ValueError, match="without a caption"):
            evaluate_retrieval(images, images[:2], [0, 1])

    def test_nothing_to_rank(self) -> None:
        empty = np.empty((0, 3), np.float32)
        with pytest.raises(TooFewExamples):
            evaluate_retrieval(empty, empty, [])

    def test_says_so_where_k_takes_in_everything(self) -> None:
        images = np.eye(3, dtype=np.float32)
        notes = evaluate_retrieval(images, images, [0, 1, 2]).notes
        assert any("recall@10" in note for note in notes)
        assert not any("recall@1 " in note for note in notes)


class TestData:
    def test_a_report_is_kept_as_json_data(self) -> None:
        images, classes, labels, names = random_set(0)
        classified = to_data(evaluate_classification(images, classes, labels, names))
        retrieved = to_data(evaluate_retrieval(images, images, list(range(len(images)))))
        assert (classified["kind"], retrieved["kind"]) == ("classification", "retrieval")
        for data in (classified, retrieved):
            assert data["images"] == len(images)
            assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert [part["name"] for part in classified["per_class"]] == list(names)
        assert retrieved["image_recall"].keys() == {"1", "5", "10"}

    def test_without_top5(self) -> None:
        classes = np.eye(3, dtype=np.float32)
        report = evaluate_classification(classes, classes, [0, 1, 2], ["a", "b", "c"])
        assert to_data(report)["top5"] is None
