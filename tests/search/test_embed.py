"""Queries of several parts: mixtures, examples, feedback, and many at once."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder, fake_spec

from clipsearch.errors import (
    ClipsearchError,
    IndexUnreadable,
    OutOfDomain,
    RefusedByPolicy,
    UsageError,
)
from clipsearch.images import scan
from clipsearch.indexing import embed as indexing
from clipsearch.indexing.reconcile import reconcile
from clipsearch.models.load import Encoders
from clipsearch.records import EVERYTHING, Encoder, Filter, Hit
from clipsearch.search.answer import Answer, answer_each
from clipsearch.search.answer import answer as whole_answer
from clipsearch.search.embed import Embedded, embed_each
from clipsearch.search.query import Image, Part, Probe, Query, Role, SearchOptions, Stored, Text
from clipsearch.storage import collection as assurance
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection

COUNT = 24


def no_encoder() -> Encoder:
    raise AssertionError("there is nothing to embed")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, indexed and calibrated."""
    monkeypatch.setattr(indexing, "DecodePool", DecodeHere)
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


@dataclass
class Asking:
    """Collections and what embeds for them."""

    collections: Sequence[Collection]
    encoders: Encoders

    def embed(self, *parts: Part) -> Embedded:
        (made,) = embed_each(
            self.collections, [Query(parts)], self.encoders, allow_out_of_domain=True
        )
        if isinstance(made, ClipsearchError):
            raise made
        return made


@pytest.fixture
def searcher(store: Store) -> Asking:
    return Asking([Collection(store)], Encoders(FakeEncoder, no_encoder))


def text(what: str, weight: float = 1.0, role: Role = "wanted") -> Text:
    return Text(what, weight=weight, role=role)


def image(what: object, weight: float = 1.0, role: Role = "wanted") -> Image | Stored:
    if isinstance(what, int):
        return Stored(what, weight=weight, role=role)
    return Image(str(what), weight=weight, role=role)


EVERYTHING_AT_ALL = SearchOptions(k=COUNT, all=True, allow_out_of_domain=True)


def answer(searcher: Asking, *parts: Part, k: int = COUNT, only: Filter = EVERYTHING) -> list[Hit]:
    options = replace(EVERYTHING_AT_ALL, k=k, only=only)
    return whole_answer(searcher.collections, Query(parts), options, searcher.encoders).hits


def standard_scores(searcher: Asking, part: Part) -> dict[bytes, float]:
    """The scores of one part alone, centred and divided by their standard deviation."""
    store = searcher.collections[0].store
    scale = searcher.collections[0].scale
    assert scale is not None
    asked = searcher.embed(part)
    rows = {path: store.vector(known.id) for path, known in store.known().items()}
    scores = np.stack(list(rows.values())) @ (asked.vector - scale.means[asked.kind])
    return dict(zip(rows, (scores - scores.mean()) / scores.std(), strict=True))


# -- mixtures ------------------------------------------------------------------------------------


def test_one_part_is_searched_with_as_it_is(searcher: Asking) -> None:
    asked = searcher.embed(text("a cat"))
    np.testing.assert_array_equal(asked.vector, FakeEncoder().encode_texts(["a cat"])[0])
    assert (asked.kind, asked.offset) == ("text", 0.0)


def test_several_parts_rank_by_the_sum_of_their_standard_scores(
    searcher: Asking, root: Path
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
    # fp16 in the catalog: neighbours may change places.
    found = [hit.path for hit in hits]
    assert [sums[path] for path in found] == pytest.approx(
        [sums[path] for path in expected], abs=0.02
    )
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_saved_order_of_parts_changes_nothing(searcher: Asking) -> None:
    parts = [text("a cat"), text("snow", 3.0), text("fruit", 1.0, "unwanted")]
    assert answer(searcher, *parts) == answer(searcher, *reversed(parts))


def test_what_is_unwanted_sinks(searcher: Asking) -> None:
    unwanted = standard_scores(searcher, text("fruit"))
    with_it = [hit.path for hit in answer(searcher, text("a cat"))]
    without = [hit.path for hit in answer(searcher, text("a cat"), text("fruit", 5, "unwanted"))]
    assert sorted(with_it) == sorted(without)
    mean_of_best = [np.mean([unwanted[path] for path in paths[:8]]) for paths in (with_it, without)]
    assert mean_of_best[1] < mean_of_best[0] - 0.5


def test_a_mixture_has_a_false_alarm_rate(searcher: Asking) -> None:
    for hit in answer(searcher, text("a cat"), text("snow")):
        assert hit.false_alarm is not None
        assert 0 < hit.false_alarm <= 1


def test_only_unwanted_things_are_nothing_to_look_for(searcher: Asking) -> None:
    for role in ("unwanted", "bad"):
        with pytest.raises(UsageError, match="nothing to search for"):
            searcher.embed(image(1, role=role))


def test_an_index_that_was_never_measured_says_what_to_do(root: Path) -> None:
    with Store.open_for_writing(root / FOLDER) as writer, writer.batch():
        writer.detach("scale")
    with Store.open(root / FOLDER) as opened:
        searcher = Asking([Collection(opened)], Encoders(FakeEncoder, no_encoder))
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
    searcher: Asking, store: Store, root: Path
) -> None:
    id = store.known()[b"07.png"].id
    by_id = answer(searcher, text("a cat"), image(id, role="good"))
    by_path = answer(searcher, text("a cat"), image(root / "07.png", role="good"))
    assert [hit.id for hit in by_id] == [hit.id for hit in by_path]
    assert len(by_id) == COUNT  # a good image is a hit
    ranks = [
        [hit.id for hit in hits].index(id) for hits in (answer(searcher, text("a cat")), by_id)
    ]
    assert ranks[1] <= ranks[0]
    without = answer(searcher, text("a cat"), image(id, role="bad"))
    assert id not in [hit.id for hit in without]
    assert len(without) == COUNT - 1


def test_a_good_picture_alone_is_the_query(searcher: Asking, store: Store) -> None:
    id = store.known()[b"07.png"].id
    hits = answer(searcher, image(id, role="good"))
    assert hits[0].id == id
    assert hits[0].score == pytest.approx(1, abs=2e-3)


def test_good_pictures_count_together_for_three_quarters(searcher: Asking, store: Store) -> None:
    ids = [known.id for known in store.known().values()][:2]
    one = searcher.embed(text("a cat"), image(ids[0], role="good"))
    parts = (text("a cat"), image(ids[0], 3, "good"), image(ids[0], 1, "good"))
    two = searcher.embed(*parts)
    np.testing.assert_allclose(one.vector, two.vector, atol=1e-5)


@pytest.mark.parametrize("number", ["0", "999999", "9" * 30])
def test_an_id_that_there_is_none_of_is_a_usage_error(searcher: Asking, number: str) -> None:
    with pytest.raises(UsageError, match=f"no image {number}"):
        answer(searcher, image(int(number), role="good"))


def test_an_id_means_one_collection(searcher: Asking, store: Store) -> None:
    both = Asking([Collection(store), Collection(store)], Encoders(FakeEncoder, no_encoder))
    with pytest.raises(UsageError, match="2 indexed folders"):
        answer(both, image(1, role="good"))


# -- classes as filters --------------------------------------------------------------------------


def test_a_class_restricts_to_the_pictures_that_classify_gives_it(
    searcher: Asking, store: Store
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


def test_many_queries_are_answered_as_each_alone(searcher: Asking) -> None:
    asked = [Query((text(word),)) for word in ("a cat", "snow", "a dog")]
    asked.append(Query((text("a cat"), text("fruit", 1, "unwanted"))))
    options = replace(EVERYTHING_AT_ALL, k=5)
    many = answer_each(searcher.collections, asked, options, searcher.encoders)
    assert [type(one) for one in many] == [Answer] * 4
    for query, one in zip(asked, many, strict=True):
        assert isinstance(one, Answer)
        hits = one.hits
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
    encoders = Encoders(lambda: encoder, no_encoder)
    asked: Sequence[Query] = [
        Query((text("a cat"),)),
        Query((text("who is this man"),)),
        Query((text("a tax return"),)),
        Query((image("no such file.png"),)),
    ]
    answers = embed_each([Refusing(store)], asked, encoders)
    kinds = [Embedded, RefusedByPolicy, OutOfDomain, UsageError]
    assert [type(one) for one in answers] == kinds
    assert encoder.texts == ["a cat", "a tax return"]  # what the policy refuses is not embedded


def test_a_damaged_probe_among_many_is_an_answer(root: Path, searcher: Asking) -> None:
    with Store.open_for_writing(root / FOLDER) as store, store.batch():
        store.attach("probe:lab", b"garbage")
    asked = [Query((Probe("lab/a"),)), Query((text("a cat"),))]
    answers = answer_each(searcher.collections, asked, EVERYTHING_AT_ALL, searcher.encoders)
    assert [type(one) for one in answers] == [IndexUnreadable, Answer]


# -- stored images -----------------------------------------------------------------------------


def test_a_stored_picture_needs_no_file(root: Path, searcher: Asking) -> None:
    (root / "03.png").unlink()
    store = searcher.collections[0].store
    id = store.known()[b"03.png"].id
    hits = answer(searcher, Stored(id, 0, role="good"))
    assert hits[0].id == id
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    for place, gone in ((0, 9999), (1, 1), (0, 2**64)):
        with pytest.raises(UsageError, match="no longer in the index"):
            answer(searcher, Stored(gone, place, role="good"))
