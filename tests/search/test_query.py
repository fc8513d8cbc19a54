"""Queries of several parts: weights, examples, feedback, and many at once."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder, fake_spec
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import (
    IndexUnreadable,
    OutOfDomain,
    RefusedByPolicy,
    UsageError,
)
from clipsearch.images import scan
from clipsearch.indexing import embed
from clipsearch.indexing.reconcile import reconcile
from clipsearch.records import EVERYTHING, Encoder, Filter, Hit
from clipsearch.search import query as queries
from clipsearch.search.query import Part, Query, Searcher, weighted
from clipsearch.storage import collection as assurance
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection

COUNT = 24


def no_encoder() -> Encoder:
    raise AssertionError("there is nothing to embed")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures, indexed and calibrated."""
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(COUNT):
        make_picture(folder / f"{seed:02}.png", seed)
    with Store.create(folder / FOLDER, folder, fake_spec()) as store:
        reconcile(store, scan.find(os.fsencode(folder)), FakeEncoder)
        assurance.calibrate(store, FakeEncoder)
    return folder


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open(root / FOLDER) as opened:
        yield opened


@pytest.fixture
def searcher(store: Store) -> Searcher:
    return Searcher([Collection(store)], FakeEncoder, no_encoder)


def text(what: str, weight: float = 1.0, role: queries.Role = "wanted") -> Part:
    return Part("text", what, weight, role)


def image(what: object, weight: float = 1.0, role: queries.Role = "wanted") -> Part:
    return Part("image", str(what), weight, role)


def answer(
    searcher: Searcher, *parts: Part, k: int = COUNT, only: Filter = EVERYTHING
) -> list[Hit]:
    return searcher.hits(searcher.ask(Query(parts), allow_out_of_domain=True), k, only)


def standard_scores(searcher: Searcher, part: Part) -> dict[bytes, float]:
    """The scores of one part alone, centred and divided by their standard deviation."""
    store = searcher.collections[0].store
    scale = searcher.collections[0].scale
    assert scale is not None
    asked = searcher.ask(Query((part,)), allow_out_of_domain=True)
    rows = {path: store.vector(known.id) for path, known in store.known().items()}
    scores = np.stack(list(rows.values())) @ (asked.vector - scale.means[asked.kind])
    return dict(zip(rows, (scores - scores.mean()) / scores.std(), strict=True))


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_text", "weight", "what"),
    [
        ("a dog", 1, "a dog"),
        ("2:a dog", 2, "a dog"),
        ("0.5:a dog", 0.5, "a dog"),
        (".5:a dog", 0.5, "a dog"),
        ("1:3:10 to Yuma", 1, "3:10 to Yuma"),
        ("a dog: brown", 1, "a dog: brown"),
        ("-1:a dog", 1, "-1:a dog"),
        ("2:two\nlines", 2, "two\nlines"),
    ],
)
def test_a_weight_stands_before_its_part(given_text: str, weight: float, what: str) -> None:
    assert weighted(given_text) == (weight, what)


@pytest.mark.parametrize("bad", ["0:a dog", "0.0:a dog", "101:a dog", "2:", "2:  "])
def test_what_is_no_weight_is_a_usage_error(bad: str) -> None:
    with pytest.raises(UsageError, match="weight"):
        weighted(bad)


@given(st.text(max_size=20))
def test_any_text_has_a_weight_or_is_a_usage_error(given_text: str) -> None:
    try:
        weight, what = weighted(given_text)
    except UsageError:
        return
    assert 0 < weight <= 100
    assert given_text.endswith(what)
    if given_text.strip():
        assert weighted(f"1:{given_text}") == (1, given_text)


# -- mixtures ------------------------------------------------------------------------------------


def test_one_part_is_searched_with_as_it_is(searcher: Searcher) -> None:
    asked = searcher.ask(Query((text("a cat"),)), allow_out_of_domain=True)
    np.testing.assert_array_equal(asked.vector, FakeEncoder().encode_texts(["a cat"])[0])
    assert (asked.kind, asked.offset) == ("text", 0.0)


def test_several_parts_rank_by_the_sum_of_their_standard_scores(
    searcher: Searcher, root: Path
) -> None:
    parts = [text("a cat", 2.0), text("snow"), image(root / "03.png", 0.5)]
    hits = answer(searcher, *parts)
    assert len(hits) == COUNT - 1  # the example is none
    sums: dict[bytes, float] = dict.fromkeys(standard_scores(searcher, parts[0]), 0.0)
    for part in parts:
        for path, score in standard_scores(searcher, part).items():
            sums[path] += part.weight * score
    del sums[b"03.png"]
    expected = sorted(sums, key=lambda path: -sums[path])
    # fp16 in the catalogue: neighbours may change places.
    found = [hit.path for hit in hits]
    assert [sums[path] for path in found] == pytest.approx(
        [sums[path] for path in expected], abs=0.02
    )
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_saved_order_of_parts_changes_nothing(searcher: Searcher) -> None:
    parts = [text("a cat"), text("snow", 3.0), text("fruit", 1.0, "unwanted")]
    assert answer(searcher, *parts) == answer(searcher, *reversed(parts))


def test_what_is_unwanted_sinks(searcher: Searcher) -> None:
    unwanted = standard_scores(searcher, text("fruit"))
    with_it = [hit.path for hit in answer(searcher, text("a cat"))]
    without = [hit.path for hit in answer(searcher, text("a cat"), text("fruit", 5, "unwanted"))]
    assert sorted(with_it) == sorted(without)
    mean_of_best = [np.mean([unwanted[path] for path in paths[:8]]) for paths in (with_it, without)]
    assert mean_of_best[1] < mean_of_best[0] - 0.5


def test_a_mixture_has_a_false_alarm_rate(searcher: Searcher) -> None:
    for hit in answer(searcher, text("a cat"), text("snow")):
        assert hit.false_alarm is not None
        assert 0 < hit.false_alarm <= 1


def test_only_unwanted_things_are_nothing_to_look_for(searcher: Searcher) -> None:
    for role in ("unwanted", "bad"):
        with pytest.raises(UsageError, match="nothing to look for"):
            searcher.ask(Query((image("1", role=role),)), allow_out_of_domain=True)


def test_an_index_that_was_never_measured_says_what_to_do(root: Path) -> None:
    with Store.open_for_writing(root / FOLDER) as writer, writer.batch():
        writer.detach("scale")
    with Store.open(root / FOLDER) as opened:
        searcher = Searcher([Collection(opened)], FakeEncoder, no_encoder)
        assert answer(searcher, text("a cat"))
        with pytest.raises(IndexUnreadable, match="measurements") as caught:
            answer(searcher, text("a cat"), text("snow"))
        assert "clipsearch index" in caught.value.hint
    with Store.open_for_writing(root / FOLDER) as writer:
        assert assurance.calibrate(writer, FakeEncoder)  # and it is done
        assert Collection(writer).scale is not None
        assert not assurance.calibrate(writer, FakeEncoder)


# -- feedback ------------------------------------------------------------------------------------


def test_good_and_bad_pictures_are_named_by_id_or_path(
    searcher: Searcher, store: Store, root: Path
) -> None:
    id = store.known()[b"07.png"].id
    by_id = answer(searcher, text("a cat"), image(id, role="good"))
    by_path = answer(searcher, text("a cat"), image(root / "07.png", role="good"))
    assert [hit.id for hit in by_id] == [hit.id for hit in by_path]
    assert len(by_id) == COUNT  # a good picture is a hit
    ranks = [
        [hit.id for hit in hits].index(id) for hits in (answer(searcher, text("a cat")), by_id)
    ]
    assert ranks[1] <= ranks[0]
    without = answer(searcher, text("a cat"), image(id, role="bad"))
    assert id not in [hit.id for hit in without]
    assert len(without) == COUNT - 1


def test_a_good_picture_alone_is_the_query(searcher: Searcher, store: Store) -> None:
    id = store.known()[b"07.png"].id
    hits = answer(searcher, image(id, role="good"))
    assert hits[0].id == id
    assert hits[0].score == pytest.approx(1, abs=2e-3)


def test_good_pictures_count_together_for_three_quarters(searcher: Searcher, store: Store) -> None:
    ids = [known.id for known in store.known().values()][:2]
    one = searcher.ask(Query((text("a cat"), image(ids[0], role="good"))), allow_out_of_domain=True)
    parts = (text("a cat"), image(ids[0], 3, "good"), image(ids[0], 1, "good"))
    two = searcher.ask(Query(parts), allow_out_of_domain=True)
    np.testing.assert_allclose(one.vector, two.vector, atol=1e-5)


@pytest.mark.parametrize("number", ["0", "999999", "9" * 30])
def test_an_id_that_there_is_none_of_is_a_usage_error(searcher: Searcher, number: str) -> None:
    with pytest.raises(UsageError, match=f"no picture {number}"):
        answer(searcher, image(number, role="good"))


def test_an_id_means_one_collection(searcher: Searcher, store: Store) -> None:
    both = Searcher([Collection(store), Collection(store)], FakeEncoder, no_encoder)
    with pytest.raises(UsageError, match="2 indexed folders"):
        answer(both, image("1", role="good"))


# -- classes as filters --------------------------------------------------------------------------


def test_a_class_restricts_to_the_pictures_that_classify_gives_it(
    searcher: Searcher, store: Store
) -> None:
    collection = searcher.collections[0]
    assert collection.texts is not None
    classes = collection.texts.gate.classes
    known = {known.id: path for path, known in store.known().items()}
    first = {id: int((store.vector(id) @ classes.T).argmax()) for id in known}
    for of_class in set(first.values()):
        hits = answer(searcher, text("a cat"), only=Filter(of_class=of_class))
        assert {hit.id for hit in hits} == {id for id in known if first[id] == of_class}
    unused = next(n for n in range(len(classes)) if n not in first.values())
    assert answer(searcher, text("a cat"), only=Filter(of_class=unused)) == []


# -- many at once --------------------------------------------------------------------------------


def test_many_queries_are_answered_as_each_alone(searcher: Searcher) -> None:
    asked = [Query((text(word),)) for word in ("a cat", "snow", "a dog")]
    asked.append(Query((text("a cat"), text("fruit", 1, "unwanted"))))
    many = searcher.ask_each(asked, allow_out_of_domain=True)
    ready = [one for one in many if isinstance(one, queries.Asked)]
    assert len(ready) == 4
    for query, hits in zip(asked, searcher.hits_of_each(ready, 5), strict=True):
        alone = answer(searcher, *query.parts, k=5)
        assert [hit.id for hit in hits] == [hit.id for hit in alone]
        np.testing.assert_allclose(
            [hit.score for hit in hits], [hit.score for hit in alone], atol=1e-6
        )


def test_what_is_refused_among_many_is_an_answer(store: Store) -> None:
    class Refusing(Collection):
        def check(self, query: str, vector: object) -> None:
            if query == "a tax return":
                raise OutOfDomain("not here")

    encoder = FakeEncoder()
    searcher = Searcher([Refusing(store)], lambda: encoder, no_encoder)
    asked: Sequence[Query] = [
        Query((text("a cat"),)),
        Query((text("who is this man"),)),
        Query((text("a tax return"),)),
        Query((image("no such file.png"),)),
    ]
    answers = searcher.ask_each(asked)
    kinds = [queries.Asked, RefusedByPolicy, OutOfDomain, UsageError]
    assert [type(one) for one in answers] == kinds
    assert encoder.texts == ["a cat", "a tax return"]  # what the policy refuses is not embedded


def test_a_damaged_probe_among_many_is_an_answer(root: Path, searcher: Searcher) -> None:
    with Store.open_for_writing(root / FOLDER) as store, store.batch():
        store.attach("probe:lab", b"garbage")
    asked = [Query((Part("probe", "lab/a"),)), Query((text("a cat"),))]
    answers = searcher.ask_each(asked, allow_out_of_domain=True)
    assert [type(one) for one in answers] == [IndexUnreadable, queries.Asked]


# -- stored pictures -----------------------------------------------------------------------------


def test_a_stored_picture_needs_no_file(root: Path, searcher: Searcher) -> None:
    (root / "03.png").unlink()
    store = searcher.collections[0].store
    id = store.known()[b"03.png"].id
    hits = answer(searcher, Part("stored", f"0-{id}", role="good"))
    assert hits[0].id == id
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    for gone in ("0-9999", "1-1", f"0-{2**64}"):
        with pytest.raises(UsageError, match="no longer in the index"):
            answer(searcher, Part("stored", gone, role="good"))
