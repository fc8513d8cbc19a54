"""Verdict and cut of whole rankings, against numpy over all images."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from fakes import FakeEncoder, fake_spec, picture, unit

from clipsearch.domain import background, taxonomy
from clipsearch.domain.cut import SHARE
from clipsearch.domain.verdict import STRONG, WEAK
from clipsearch.errors import NotTested
from clipsearch.records import Filter, Vectors
from clipsearch.search.answer import answer_each
from clipsearch.search.embed import Aim, Embedded
from clipsearch.search.query import Query, SearchOptions, Text
from clipsearch.search.rank import Ranking, rank_each
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.vectors import l2_normalise

COUNT = 60

TOYS = """
name = "toys"
description = "Two toys"
language = "en"
templates = ["a photo of a {}."]
in_domain = []
out_of_domain = []
[pass_marks]
top1 = 0.5
[[classes]]
name = "red ball"
[[classes]]
name = "spinning top"
"""

DOMAIN = taxonomy.parse(TOYS, "toys.toml")


def made(root: Path, seeds: range) -> Path:
    """An index of made-up images, half of them in the folder ``sub``; calibrated."""
    root.mkdir()
    with Store.create(root / FOLDER, root, fake_spec()) as store:
        with store.batch():
            store.add(picture(b"sub/%d.png" % n if n % 2 else b"%d.png" % n, n) for n in seeds)
        collection.pin(store, DOMAIN)
        collection.calibrate(store, FakeEncoder)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("rank") / "photos", range(COUNT))


@pytest.fixture
def toys(root: Path) -> Iterator[Collection]:
    with Store.open(root / FOLDER) as store:
        yield Collection(store)


def pictures(seeds: range = range(COUNT)) -> Vectors:
    """As the catalog holds them, ``(n, dim)``."""
    return np.stack([unit(n) for n in seeds]).astype(np.float16).astype(np.float32)


def texts() -> list[str]:
    return list(background.unrelated(DOMAIN))


def asked(vector: Vectors, words: int = 2, **more: object) -> Embedded:
    return Embedded(vector, aims=(Aim(vector, words),), **more)  # type: ignore[arg-type]


def one(toys: Collection, query: Embedded, **options: object) -> Ranking:
    (ranking,) = rank_each([toys], [query], SearchOptions(**options))  # type: ignore[arg-type]
    return ranking


def rate_by_hand(query: Vectors, words: int, rows: Vectors) -> float:
    """The rate of a query over these images, from the definition."""
    encoded = FakeEncoder().encode_texts(texts()).astype(np.float16).astype(np.float32)
    centre = encoded.mean(axis=0)

    def strengths(vectors: Vectors) -> np.ndarray:
        best = -np.sort(-(rows @ (vectors - centre).T), axis=0)[:3]
        return (best[0] + best.mean(axis=0)) / 2

    lengths = np.log([len(text.split()) for text in texts()])
    unrelated = strengths(encoded)
    slope = np.polyfit(lengths, unrelated, 1)[0]
    own = strengths(query[np.newaxis])[0] - slope * np.log(words)
    reached = (unrelated - slope * lengths >= own - 1e-6).sum()
    return float((1 + reached) / (1 + len(unrelated)))


@pytest.mark.parametrize("seed", range(300, 312))
def test_the_rate_is_the_share_of_unrelated_queries_that_score_as_high(
    toys: Collection, seed: int
) -> None:
    query = unit(seed)
    judgment = one(toys, asked(query, 3)).judgment
    assert judgment.rate == pytest.approx(rate_by_hand(query, 3, pictures()), abs=0.005)
    said = {True: "strong", False: "weak" if judgment.rate <= WEAK else "none"}
    assert judgment.verdict == said[judgment.rate <= STRONG]


def test_the_list_ends_two_thirds_of_the_way_from_the_mean_to_the_best(toys: Collection) -> None:
    query = l2_normalise(unit(3) + unit(4) + 0.6 * unit(5))
    ranking = one(toys, asked(query), k=50)
    scores = pictures() @ query
    centre = FakeEncoder().encode_texts(texts()).mean(axis=0)
    base = min(scores.mean(), (pictures() @ centre).mean())
    least = base + SHARE * (scores.max() - base)
    expected = np.flatnonzero(scores >= least)[np.argsort(-scores[scores >= least])]
    assert [hit.path for hit in ranking.hits] == [
        b"sub/%d.png" % n if n % 2 else b"%d.png" % n for n in expected.tolist()
    ]
    assert ranking.matching == len(expected) >= 2
    assert ranking.judgment.least == pytest.approx(least, abs=1e-3)
    assert {hit.verdict for hit in ranking.hits} == {ranking.judgment.verdict}
    assert {hit.rate for hit in ranking.hits} == {ranking.judgment.rate}


def test_k_bounds_the_list_and_the_matches_are_counted_all_the_same(toys: Collection) -> None:
    query = asked(l2_normalise(unit(3) + unit(4) + 0.6 * unit(5)))
    every, first = one(toys, query, k=50), one(toys, query, k=1)
    assert first.hits == every.hits[:1]
    assert first.matching == every.matching > 1


def by_verdict(toys: Collection, verdict: str) -> Embedded:
    """A query of this verdict."""
    queries = (asked(unit(seed)) for seed in range(400, 1400))
    return next(query for query in queries if one(toys, query).judgment.verdict == verdict)


def test_no_match_has_no_hits_but_the_nearest_and_all_prints_the_best(toys: Collection) -> None:
    query = by_verdict(toys, "none")
    ranking = one(toys, query)
    assert (ranking.hits, ranking.matching) == ([], 0)
    best = one(toys, query, all=True, k=3).hits
    assert len(best) == 3
    assert [hit.id for hit in ranking.nearest[:3]] == [hit.id for hit in best]


def test_a_weak_match_is_shown_but_not_if_only_a_strong_one_will_do(toys: Collection) -> None:
    query = by_verdict(toys, "weak")
    assert one(toys, query).hits
    assert one(toys, query, strict=True).hits == []
    assert one(toys, asked(unit(7)), strict=True).hits  # an image's own embedding


def test_few_pictures_are_compared_with_what_queries_reach_among_them(toys: Collection) -> None:
    query = unit(500)
    only = Filter(under=b"sub")
    judgment = one(toys, asked(query), only=only).judgment
    expected = rate_by_hand(query, 2, pictures(range(1, COUNT, 2)))
    assert judgment.rate == pytest.approx(expected, abs=0.005)
    assert judgment.rate != one(toys, asked(query)).judgment.rate


def test_a_filter_that_lets_nothing_through_judges_nothing(toys: Collection) -> None:
    ranking = one(toys, asked(unit(5)), only=Filter(under=b"nowhere"))
    assert (ranking.hits, ranking.nearest, ranking.judgment.verdict) == ([], (), None)


def test_several_collections_are_judged_as_one(tmp_path: Path, toys: Collection) -> None:
    roots = [made(tmp_path / "a", range(20)), made(tmp_path / "b", range(20, COUNT))]
    query = asked(unit(500))
    with Store.open(roots[0] / FOLDER) as a, Store.open(roots[1] / FOLDER) as b:
        (ranking,) = rank_each([Collection(a), Collection(b)], [query], SearchOptions())
    whole = one(toys, query)
    assert ranking.judgment.rate == pytest.approx(whole.judgment.rate, abs=1e-9)
    assert ranking.judgment.least == pytest.approx(whole.judgment.least, abs=1e-4)


def test_what_is_near_a_picture_is_always_shown(toys: Collection) -> None:
    for seed in range(400, 430):
        query = Embedded(unit(seed), "image", by_example=True)
        ranking = one(toys, query)
        assert ranking.judgment.verdict in ("strong", "weak")
        assert ranking.judgment.compared_with == "images"
        assert ranking.hits


def test_marking_a_picture_takes_nothing_from_the_list(toys: Collection) -> None:
    text = l2_normalise(unit(3) + unit(4) + 0.6 * unit(5))
    alone = one(toys, asked(text), k=50).matching
    for other in range(20, 40):
        mixture = l2_normalise(text + unit(other))
        marked = Embedded(mixture, aims=(Aim(text, 2),), by_example=True, feedback=True)
        assert one(toys, marked, k=50).matching >= alone


def test_a_class_lists_the_pictures_that_classification_gives_it(toys: Collection) -> None:
    assert toys.texts is not None
    classes = toys.texts.gate.classes
    given = (pictures() @ classes.T).argmax(axis=1)
    for index in (0, 1):
        ranking = one(toys, Embedded(classes[index], of_class=index), k=COUNT)
        assert {hit.id for hit in ranking.hits} == set(
            (np.flatnonzero(given == index) + 1).tolist()
        )
        assert ranking.matching == (given == index).sum()
        assert ranking.judgment.verdict is None


def test_before_the_calibration_there_is_no_verdict_and_no_strong_match(tmp_path: Path) -> None:
    root = tmp_path / "new"
    root.mkdir()
    with Store.create(root / FOLDER, root, fake_spec()) as store:
        with store.batch():
            store.add(picture(b"%d.png" % n, n) for n in range(5))
        new = Collection(store)
        ranking = one(new, asked(unit(900)))
        assert len(ranking.hits) == 5
        assert ranking.judgment.verdict is None
        with pytest.raises(NotTested, match="not calibrated yet"):
            answer_each([new], [Query((Text("a cat"),))], SearchOptions(strict=True), None)  # type: ignore[arg-type]


def test_what_is_tested_and_not_calibrated_is_not_enough(tmp_path: Path) -> None:
    """An index of an earlier version may be so: an evaluation was kept, and no calibration is."""
    directory = shutil.copytree(ROOT / "tests/data/earlier_index/index", tmp_path / FOLDER)
    with Store.open(directory) as store:
        known = Collection(store)
        assert (known.tested, known.is_calibrated) == ("tested", False)
        with pytest.raises(NotTested, match="not calibrated yet"):
            answer_each([known], [], SearchOptions(require_tested=True), None)  # type: ignore[arg-type]


def test_a_batch_answers_as_each_query_alone_does(toys: Collection) -> None:
    queries = [asked(unit(n)) for n in (3, 400, 401)] + [
        Embedded(unit(5), "image", by_example=True),
        Embedded(unit(1), of_class=1),
    ]
    together = rank_each([toys], queries, SearchOptions(k=5))
    alone = [one(toys, query, k=5) for query in queries]
    assert [[hit.id for hit in ranking.hits] for ranking in together] == [
        [hit.id for hit in ranking.hits] for ranking in alone
    ]
    for one_of_all, itself in zip(together, alone, strict=True):
        assert one_of_all.judgment.verdict == itself.judgment.verdict
