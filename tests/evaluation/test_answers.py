"""The lists that people meet: by hand, against scikit-learn, and as ``search`` gives them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import DIM, FakeEncoder, fake_spec, picture, unit

from clipsearch.domain.gate import Gate, Verdict
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.evaluation.answers import QUERY, Answered, evaluate_answers, summarized
from clipsearch.evaluation.metrics import Bools
from clipsearch.models.load import Encoders
from clipsearch.records import Vectors
from clipsearch.search.answer import Answer, answer_each
from clipsearch.search.query import Query, SearchOptions, Text
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.vectors import l2_normalise

NAMES = ("ball", "kite", "doll", "drum", "robot", "yo-yo", "paper plane", "spinning top")
TOYS = Domain(
    "toys",
    "",
    "en",
    ("a photo of a {}.",),
    tuple(DomainClass(name) for name in NAMES),
    (),
    (),
    {},
)


@pytest.fixture
def shown() -> Bools:
    """Forty images of one or two of the first five classes; the others are absent."""
    rng = np.random.default_rng(5)
    made = np.zeros((40, len(NAMES)), bool)
    made[np.arange(40), np.arange(40) % 5] = True
    made[np.arange(0, 40, 3), rng.integers(0, 5, 14)] = True
    return made


@pytest.fixture
def store(tmp_path: Path, shown: Bools) -> Iterator[Store]:
    """The images near what they show, the later classes less so, indexed and calibrated."""
    asked = np.stack([unit(QUERY.format(name).encode()) for name in NAMES])
    near = shown @ (asked * np.linspace(1.2, 0.2, len(NAMES))[:, np.newaxis])
    noise = np.stack([unit(1000 + n) for n in range(len(shown))])
    vectors = l2_normalise((near + noise).astype(np.float32))
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as made:
        with made.batch():
            made.add(
                replace(picture(b"%02d.png" % n, n), vector=vector)
                for n, vector in enumerate(vectors)
            )
        collection.pin(made, TOYS)
        collection.calibrate(made, FakeEncoder)
        yield made


def test_lists_are_those_that_search_gives(store: Store, shown: Bools) -> None:
    known = Collection(store)
    assert known.texts is not None
    vectors = store.vectors(store.ids().tolist())
    got = evaluate_answers(vectors, shown, TOYS, known.texts, FakeEncoder())
    encoders = Encoders(FakeEncoder, FakeEncoder)
    queries = [Query((Text(QUERY.format(name)),)) for name in NAMES]
    options = SearchOptions(k=len(shown))
    for c, answered in enumerate(answer_each([known], queries, options, encoders)):
        assert isinstance(answered, Answer)
        one = got.per_class[c]
        assert one.verdict == answered.judgment.verdict
        found = [int(hit.path[:2]) for hit in answered.hits]
        assert (one.shown, one.right) == (len(found), shown[found, c].sum())
    assert {one.verdict for one in got.per_class} == {"strong", "weak", "none"}
    assert got.found.n == 5
    assert got.absent_answered is not None
    assert got.absent_answered.n == 3


def test_figures_are_scikit_learns(store: Store, shown: Bools) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    known = Collection(store)
    assert known.texts is not None
    vectors = store.vectors(store.ids().tolist())
    got = evaluate_answers(vectors, shown, TOYS, known.texts, FakeEncoder())
    rows = []
    for c, one in enumerate(got.per_class[:5]):
        scores = vectors @ unit(QUERY.format(NAMES[c]).encode())
        order = np.argsort(-scores)
        listed = np.zeros(len(scores), bool)
        listed[order[: one.shown]] = True
        row = [
            score(shown[:, c], listed, zero_division=0)
            for score in (metrics.precision_score, metrics.recall_score, metrics.f1_score)
        ]
        precision, recall, _ = metrics.precision_recall_curve(shown[:, c], scores)
        rows.append([*row, (2 * precision * recall / (precision + recall + 1e-12)).max()])
        assert (one.precision, one.recall, one.f1, one.best_f1) == pytest.approx(tuple(rows[-1]))
    means = np.mean(rows, axis=0)
    found = (got.list_precision, got.list_recall, got.list_f1, got.best_f1)
    assert [estimate.value for estimate in found] == pytest.approx(means.tolist())
    assert got.share_of_best_f1.value == pytest.approx(means[2] / means[3])
    for estimate in got.estimates().values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_by_hand() -> None:
    got = summarized(
        [
            Answered("ball", 4, "strong", shown=4, right=2, best_f1=0.8),
            Answered("kite", 2, "none", shown=0, right=0, best_f1=0.4),
            Answered("doll", 0, "strong", shown=3, right=0, best_f1=0.0),
            Answered("drum", 0, "weak", shown=1, right=0, best_f1=0.0),
            Answered("robot", 0, "none", shown=0, right=0, best_f1=0.0),
        ]
    )
    assert {name: estimate.value for name, estimate in got.estimates().items()} == pytest.approx(
        {
            "found": 1 / 2,
            "absent_answered": 2 / 3,
            "absent_strong": 1 / 3,
            "list_precision": 1 / 4,
            "list_recall": 1 / 4,
            "list_f1": 1 / 4,
            "best_f1": 0.6,
            "share_of_best_f1": 0.25 / 0.6,
        }
    )
    assert got.to_data()["per_class"][0]["name"] == "ball"


def test_where_all_classes_are_present_nothing_is_absent() -> None:
    got = summarized([Answered("ball", 1, "strong", shown=1, right=1, best_f1=1.0)])
    assert got.absent_answered is None
    assert got.absent_strong is None
    assert "absent_answered" not in got.estimates()
    assert got.list_f1.low < 0.5  # a single class proves little


class Closed(Gate):
    """A gate that nothing passes."""

    def judge(self, query: str, vector: Vectors) -> Verdict:
        return Verdict(False, (), 0.0, ())


def test_a_query_that_the_gate_refuses_is_not_answered(store: Store, shown: Bools) -> None:
    known = Collection(store)
    assert known.texts is not None
    none = np.empty((0, DIM), np.float32)
    closed = replace(known.texts, gate=Closed(TOYS, known.texts.gate.classes, none, none))
    vectors = store.vectors(store.ids().tolist())
    got = evaluate_answers(vectors, shown, TOYS, closed, FakeEncoder())
    assert {(one.verdict, one.shown) for one in got.per_class} == {("none", 0)}
    assert got.found.value == got.list_f1.value == 0
