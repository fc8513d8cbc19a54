"""``--diverse``: no two hits are nearly the same, and nothing better was left out without one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import clustered, fake_spec, picture, unit, unsynchronised
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipsearch.domain.calibration import NEAR_DUPLICATE
from clipsearch.records import EVERYTHING, Filter, Hit, Vectors
from clipsearch.search import diversify
from clipsearch.search.duplicates import likeness
from clipsearch.search.duplicates.likeness import Likeness
from clipsearch.search.embed import Embedded
from clipsearch.search.query import SearchOptions
from clipsearch.search.rank import rank_each
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.vectors import l2_normalise

COUNT = 80
MEASURED = Likeness("f" * 64, COUNT, COUNT, 64, 0.97, 0.75, 0.95, 0.5, 0.6)


def made(root: Path, kinds: int = 12, seed: int = 0) -> Store:
    """A collection of bursts: images of a few kinds, in two folders."""
    root.mkdir()
    store = unsynchronised(Store.create(root / FOLDER, root, fake_spec()))
    vectors = clustered(COUNT, kinds=kinds, seed=seed)
    images = [
        replace(picture(b"%s/%03d.png" % (b"ab"[n % 2 : n % 2 + 1], n), n), vector=vector)
        for n, vector in enumerate(vectors)
    ]
    with store.batch():
        store.add(images)
    return store


def search(
    collections: list[Collection],
    query: Vectors,
    k: int,
    only: Filter = EVERYTHING,
    *,
    diverse: bool = True,
) -> list[Hit]:
    options = SearchOptions(k=k, only=only, all=True, diverse=diverse)
    (ranking,) = rank_each(collections, [Embedded(query)], options)
    return ranking.hits


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with made(tmp_path / "photos") as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Store]]:
    """Two collections. Not to be changed."""
    root = tmp_path_factory.mktemp("diversity")
    with made(root / "one") as one, made(root / "two", seed=1) as two:
        yield [one, two]


def vectors_of(stores: list[Store], hits: list[Hit]) -> Vectors:
    known = {
        (store.root, int(id)): vector
        for store in stores
        for ids, vectors in store.embeddings()
        for id, vector in zip(ids, vectors, strict=True)
    }
    return l2_normalise(np.stack([known[hit.root, hit.id] for hit in hits]))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 1000),
    k=st.integers(1, 30),
    several=st.booleans(),
    folder=st.sampled_from([b"", b"a"]),
    least=st.sampled_from([4, 100]),
)
@pytest.mark.process
def test_hits_differ_and_what_is_left_out_does_not(
    shared: list[Store],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    k: int,
    several: bool,
    folder: bytes,
    least: int,
) -> None:
    monkeypatch.setattr(diversify, "_LEAST", least)
    stores = shared if several else shared[:1]
    collections = [Collection(store) for store in stores]
    query, only = unit(seed), Filter(folder)
    hits = search(collections, query, k, only)
    ranked = search(collections, query, 1000, only, diverse=False)
    places = [ranked.index(replace(hit, collapsed=0)) for hit in hits]
    assert places == sorted(places)  # the scores are those of the search, and so is the order
    vectors = vectors_of(stores, ranked)
    alike = vectors @ vectors.T >= NEAR_DUPLICATE
    for n, place in enumerate(places):
        assert not alike[place, places[:n]].any()
    end = len(ranked) if len(hits) < k else places[-1]
    for place in set(range(end)) - set(places):
        assert alike[place, [better for better in places if better < place]].any()


def test_all_that_is_alike_is_counted(store: Store) -> None:
    hits = search([Collection(store)], unit(1), 100)
    assert sum(hit.collapsed + 1 for hit in hits) == COUNT
    assert 12 <= len(hits) < 40
    assert search([Collection(store)], unit(1), 100) == hits
    (best,) = search([Collection(store)], unit(1), 1)
    assert best.id == hits[0].id
    assert best.collapsed > 0


def test_more_hits_are_asked_for_until_enough_of_them_differ(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diversify, "_LEAST", 1)
    monkeypatch.setattr(diversify, "_WINDOW", 2)
    hits = search([Collection(store)], unit(1), 12)
    assert len(hits) == 12
    monkeypatch.setattr(diversify, "_MOST", 24)
    assert len(search([Collection(store)], unit(1), 12)) < 12


def test_the_threshold_is_the_one_measured_on_the_collection(store: Store) -> None:
    flat = search([Collection(store)], unit(1), 100)
    likeness.keep(store, MEASURED)
    finer = search([Collection(store)], unit(1), 100)
    assert len(finer) > len(flat)
    likeness.keep(store, replace(MEASURED, model="another"))
    assert search([Collection(store)], unit(1), 100) == flat


def test_nothing_passes(store: Store) -> None:
    assert search([Collection(store)], unit(1), 5, Filter(b"none")) == []
