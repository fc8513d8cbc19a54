"""From a query to hits: over several collections, by example, without the model if possible."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder, assert_exact, fake_spec, picture, unit, vectors_of

from clipsearch.domain import taxonomy
from clipsearch.errors import ClipsearchError, NotTested, OutOfDomain, RefusedByPolicy, UsageError
from clipsearch.images import scan
from clipsearch.images.decode import decode
from clipsearch.indexing import embed as indexing
from clipsearch.indexing.reconcile import reconcile
from clipsearch.models.load import Encoders
from clipsearch.records import Encoder, Filter, Hit, Vectors
from clipsearch.search.answer import answer, notes
from clipsearch.search.embed import Embedded, class_index, class_vector, embed_each
from clipsearch.search.query import Class, Image, Query, SearchOptions, Text
from clipsearch.search.rank import rank_each
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection


def ranked(collections: Sequence[Collection], query: Embedded, k: int, **options: Any) -> list[Hit]:
    everything = {"all": "max_false_alarm" not in options}
    (ranking,) = rank_each(collections, [query], SearchOptions(k=k, **everything, **options))
    return ranking.hits


def search(stores: Sequence[Store], query: Vectors, k: int, under: bytes = b"") -> list[Hit]:
    collections = [Collection(store) for store in stores]
    return ranked(collections, Embedded(query), k, only=Filter(under))


def search_like(
    stores: Sequence[Store],
    image: Path,
    load_encoder: Callable[[], Encoder],
    k: int,
    under: bytes = b"",
) -> list[Hit]:
    collections = [Collection(store) for store in stores]
    options = SearchOptions(k=k, only=Filter(under), all=True)
    query = Query((Image(os.fspath(image)),))
    return answer(collections, query, options, Encoders(no_encoder, load_encoder)).hits


def no_encoder() -> Encoder:
    raise AssertionError("there is nothing to embed")


def indexed(root: Path) -> Store:
    """A folder of real images, indexed and open for reading."""
    with Store.create(root / FOLDER, root, fake_spec()) as store:
        reconcile(store, scan.find(os.fsencode(root)), FakeEncoder)
    return Store.open(root / FOLDER)


def vector_of(path: Path) -> Vectors:
    pixels = decode(os.fspath(path), fake_spec().preprocessing).pixels
    return FakeEncoder().encode_images(pixels[np.newaxis])[0]


def paths(hits: list[Hit]) -> list[Path]:
    return [hit.root / os.fsdecode(hit.path) for hit in hits]


@pytest.fixture
def store(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Six images, `sub/same.png` being the very content of `a.png`, indexed."""
    monkeypatch.setattr(indexing, "DecodePool", DecodeHere)
    shutil.copy(photos / "a.png", photos / "sub" / "same.png")
    with indexed(photos) as opened:
        yield opened


# -- several collections -------------------------------------------------------------------------


def test_several_collections_give_one_ranking(tmp_path: Path) -> None:
    stores, truth = [], {}
    for n in range(3):
        root = tmp_path / f"root {n}"
        root.mkdir()
        pictures = [picture(b"%d/%d.png" % (n, m), 100 * n + m) for m in range(20 + n)]
        truth |= vectors_of(pictures)
        opened = Store.create(root / FOLDER, root, fake_spec())
        with opened.batch():
            opened.add(pictures)
        if n == 1:
            opened.update_vector_index()
        stores.append(opened)
    for k in (1, 5, 60, 100):
        hits = search(stores, unit(7), k)
        assert_exact_but_for_ids(hits, truth, unit(7), k)
        for hit in hits:
            assert hit.root == tmp_path / f"root {hit.path[:1].decode()}"
    assert {hit.path[:2] for hit in search(stores, unit(7), 60, b"1")} == {b"1/"}
    for opened in stores:
        opened.close()


def assert_exact_but_for_ids(
    hits: list[Hit], truth: dict[bytes, Vectors], query: Vectors, k: int
) -> None:
    """Ids are each collection's own, so two collections have the same ones."""
    renumbered = [
        Hit(n, hit.path, hit.root, hit.score, hit.width, hit.height, hit.taken_at)
        for n, hit in enumerate(hits)
    ]
    assert_exact(renumbered, truth, query, k)


def test_equal_scores_rank_the_same_in_whatever_order_the_collections_come(tmp_path: Path) -> None:
    stores = []
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        opened = Store.create(tmp_path / name / FOLDER, tmp_path / name, fake_spec())
        with opened.batch():
            opened.add([picture(b"one.png", 5), picture(b"two.png", 5)])
        stores.append(opened)
    expected = [tmp_path / folder / name for folder in "ab" for name in ("one.png", "two.png")]
    assert paths(search(stores, unit(5), 9)) == expected
    assert paths(search(stores[::-1], unit(5), 9)) == expected
    for opened in stores:
        opened.close()


def test_a_picture_in_two_collections_one_in_the_other_is_one_hit(
    store: Store, photos: Path
) -> None:
    with indexed(photos / "sub") as inner:
        for stores in ([store, inner], [inner, store]):
            hits = search(stores, unit(5), 99)
            assert len(hits) == 7
            assert len(set(paths(hits))) == 7
            assert len(search(stores, unit(5), 4)) == 4
            like = search_like(stores, photos / "sub" / "e.png", no_encoder, 4)
            assert len(like) == 4
            assert photos / "sub" / "e.png" not in paths(like)


# -- by example ----------------------------------------------------------------------------------


def test_a_picture_of_the_collection_needs_no_model_and_is_left_out(
    store: Store, photos: Path
) -> None:
    hits = search_like([store], photos / "b.jpg", no_encoder, 99)
    assert len(hits) == 6
    assert photos / "b.jpg" not in paths(hits)
    truth = {hit.path: vector_of(photos / os.fsdecode(hit.path)) for hit in hits}
    query = store.vector(store.known()[b"b.jpg"].id)
    assert_exact(hits, truth, query, 99)


def test_its_identical_copy_is_not_left_out(store: Store, photos: Path) -> None:
    (best,) = search_like([store], photos / "a.png", no_encoder, 1)
    assert best.path == b"sub/same.png"
    assert best.score == pytest.approx(1, abs=2e-3)
    (best,) = search_like([store], photos / "sub" / "same.png", no_encoder, 1)
    assert best.path == b"a.png"


def test_as_many_hits_as_were_asked_for(store: Store, photos: Path, tmp_path: Path) -> None:
    make_picture(tmp_path / "new.png", 70)
    for example in (photos / "a.png", tmp_path / "new.png"):
        for k in (1, 3, 6):
            assert len(search_like([store], example, FakeEncoder, k)) == k


def test_the_example_may_be_named_in_any_way(
    store: Store, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos / "sub")
    for name in ("../b.jpg", "../sub/../b.jpg"):
        assert photos / "b.jpg" not in paths(search_like([store], Path(name), no_encoder, 99))


def test_a_copy_outside_the_collection_needs_no_model_and_finds_all_its_copies(
    store: Store, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "a.png", tmp_path / "outside.png")
    first, second = search_like([store], tmp_path / "outside.png", no_encoder, 2)
    assert {first.path, second.path} == {b"a.png", b"sub/same.png"}


def test_the_content_may_be_in_any_of_the_collections(store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_picture(other / "x.png", 71)
    shutil.copy(other / "x.png", tmp_path / "outside.png")
    with indexed(other) as second:
        best = search_like([store, second], tmp_path / "outside.png", no_encoder, 3)[0]
        assert best.root == other


def test_a_new_picture_is_embedded_once_and_ranked_exactly(
    store: Store, photos: Path, tmp_path: Path
) -> None:
    make_picture(tmp_path / "new.png", 72)
    encoder = FakeEncoder()
    hits = search_like([store], tmp_path / "new.png", lambda: encoder, 5)
    assert encoder.batches == [1]
    truth = {path: vector_of(photos / os.fsdecode(path)) for path in store.known()}
    assert_exact(hits, truth, vector_of(tmp_path / "new.png"), 5)


def test_a_picture_that_changed_since_it_was_indexed_is_embedded_anew(
    store: Store, photos: Path
) -> None:
    make_picture(photos / "c.png", 73)
    encoder = FakeEncoder()
    hits = search_like([store], photos / "c.png", lambda: encoder, 99)
    assert encoder.batches == [1]
    assert photos / "c.png" not in paths(hits)


def test_by_example_in_one_folder(store: Store, photos: Path) -> None:
    hits = search_like([store], photos / "a.png", no_encoder, 99, b"sub")
    assert hits[0].path == b"sub/same.png"
    assert {hit.path for hit in hits} == {b"sub/same.png", b"sub/e.png", b"sub/f.jpg"}


def test_hits_whose_files_are_gone_are_still_hits(store: Store, photos: Path) -> None:
    (photos / "sub" / "same.png").unlink()
    (best,) = search_like([store], photos / "a.png", no_encoder, 1)
    assert best.path == b"sub/same.png"


def test_a_picture_that_a_writer_removes_meanwhile_is_embedded(
    store: Store, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(id: int) -> None:
        raise KeyError(id)

    monkeypatch.setattr(store, "vector", removed)
    encoder = FakeEncoder()
    assert len(search_like([store], photos / "b.jpg", lambda: encoder, 3)) == 3
    assert encoder.batches == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "cannot read"),
        ("text.png", b"not a picture", "cannot search by"),
        ("empty.png", b"", "cannot search by"),
    ],
)
def test_what_is_no_picture_is_a_usage_error(
    store: Store, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        search_like([store], tmp_path / name, no_encoder, 3)
    assert name in str(caught.value)


def test_a_folder_is_a_usage_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        search_like([store], tmp_path, no_encoder, 3)


@pytest.mark.skipif(os.name == "nt", reason="needs FIFOs")
def test_a_fifo_is_a_usage_error_and_is_not_waited_for(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="not a regular file"):
        search_like([store], tmp_path / "fifo", no_encoder, 3)


# -- in a domain ---------------------------------------------------------------------------------

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


@pytest.fixture
def toys(store: Store, photos: Path) -> Iterator[Collection]:
    """The images, pinned to a domain of two classes and calibrated."""
    with Store.open_for_writing(photos / FOLDER) as writer:
        collection.pin(writer, taxonomy.parse(TOYS, "toys.toml"))
        collection.calibrate(writer, FakeEncoder)
    with Store.open(photos / FOLDER) as opened:
        yield Collection(opened)


def test_hits_below_the_false_alarm_rate_are_left_out(toys: Collection) -> None:
    alarms = toys.false_alarms("text")
    assert alarms is not None
    query = unit(5)
    everything = ranked([toys], Embedded(query), 99)
    assert len(everything) == 7
    rates = alarms.rate([hit.score for hit in everything])
    np.testing.assert_allclose([hit.false_alarm for hit in everything], rates)
    for rate in (0.01, 0.2, 0.5, 1.0):
        options = SearchOptions(k=99, max_false_alarm=rate)
        (ranking,) = rank_each([toys], [Embedded(query)], options)
        inside = [hit for hit in everything if hit.score >= ranking.judgment.least]
        assert 0 < len(inside) < 7
        assert ranking.hits == [hit for hit in inside if hit.false_alarm <= rate]


def test_a_hit_says_which_domain_it_was_judged_in(toys: Collection) -> None:
    (hit,) = ranked([toys], Embedded(unit(5)), 1)
    assert (hit.domain, hit.tested, hit.precision) == ("toys", "untested", None)


def test_texts_and_pictures_are_judged_by_their_own_kind(toys: Collection) -> None:
    of_texts, of_images = toys.false_alarms("text"), toys.false_alarms("image")
    assert of_texts is not None
    assert of_images is not None
    assert of_texts.best_scores != of_images.best_scores
    for kind, alarms in (("text", of_texts), ("image", of_images)):
        (hit,) = ranked([toys], Embedded(unit(5), kind), 1)
        assert hit.false_alarm == pytest.approx(float(alarms.rate([hit.score])[0]))


def test_a_class_is_looked_for_by_all_its_prompts(toys: Collection) -> None:
    vector = class_vector([toys], "Spinning_Top", Encoders(no_encoder, no_encoder))
    expected = FakeEncoder().encode_texts(["a photo of a spinning top."])[0]
    np.testing.assert_allclose(vector, expected, atol=1e-3)  # kept as fp16


def test_a_class_of_an_index_that_was_never_calibrated_is_embedded(store: Store) -> None:
    vector = class_vector([Collection(store)], "lighthouse", Encoders(FakeEncoder, no_encoder))
    assert vector.shape == (16,)
    assert float(np.linalg.norm(vector)) == pytest.approx(1)


def test_an_unknown_class_is_an_error_with_the_nearest_ones(toys: Collection) -> None:
    with pytest.raises(UsageError, match=r"'spining top' .did you mean spinning top") as caught:
        class_vector([toys], "spining top", Encoders(no_encoder, no_encoder))
    assert caught.value.hint == "clipsearch domain show lists its classes."


def test_a_class_needs_one_domain(toys: Collection, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_picture(other / "x.png", 71)
    with indexed(other) as second, pytest.raises(UsageError, match="different domains"):
        class_vector([toys, Collection(second)], "red ball", Encoders(no_encoder, no_encoder))


def test_a_class_needs_one_order_of_classes(toys: Collection, tmp_path: Path) -> None:
    """A position means a class only where all domains have it there."""
    other = tmp_path / "other"
    other.mkdir()
    make_picture(other / "x.png", 71)
    classes = tuple(reversed(toys.domain.classes))
    with indexed(other) as second:
        reordered = Collection(second)
        reordered.domain = replace(toys.domain, classes=classes)
        assert reordered.domain.fingerprint == toys.domain.fingerprint
        with pytest.raises(UsageError, match="different domains"):
            class_index([toys, reordered], "red ball")


def ask(
    collections: Sequence[Collection],
    text: str,
    load_encoder: Callable[[], Encoder],
    *,
    allow_out_of_domain: bool = False,
) -> Vectors:
    (made,) = embed_each(
        collections,
        [Query((Text(text),))],
        Encoders(load_encoder, no_encoder),
        allow_out_of_domain=allow_out_of_domain,
    )
    if isinstance(made, ClipsearchError):
        raise made
    return made.vector


def test_the_policy_refuses_before_anything_is_computed(toys: Collection) -> None:
    for allow in (True, False):
        with pytest.raises(RefusedByPolicy):
            ask([toys], "who is this man", no_encoder, allow_out_of_domain=allow)


class Refusing(Collection):
    """A collection whose domain nothing is in."""

    def check(self, query: str, vector: Vectors) -> None:
        raise OutOfDomain(f"not in {self.store.root}")


def test_a_query_must_be_in_the_domain_of_one_of_the_collections(toys: Collection) -> None:
    refusing = Refusing(toys.store)
    with pytest.raises(OutOfDomain):
        ask([refusing, refusing], "a tax return", FakeEncoder)
    for collections in ([toys, refusing], [refusing, toys]):
        assert ask(collections, "a tax return", FakeEncoder).shape == (16,)
    vector = ask([refusing], "a tax return", FakeEncoder, allow_out_of_domain=True)
    np.testing.assert_array_equal(vector, FakeEncoder().encode_texts(["a tax return"])[0])


# -- answers -------------------------------------------------------------------------------------

TEXT = Query((Text("something red"),))
ENCODERS = Encoders(FakeEncoder, no_encoder)


def test_an_answer_is_the_ranking_of_the_querys_vector(toys: Collection) -> None:
    options = SearchOptions(k=3, all=True, allow_out_of_domain=True, classes=True)
    found = answer([toys], TEXT, options, ENCODERS)
    truth = {path: toys.store.vector(known.id) for path, known in toys.store.known().items()}
    assert_exact(found.hits, truth, unit(b"something red"), 3)
    nearest = toys.nearest_classes([hit.id for hit in found.hits])
    assert found.classes == tuple(nearest[hit.id] for hit in found.hits)
    assert (found.rejected, found.nothing_passes, found.notes) == (None, False, ())
    assert answer([toys], TEXT, replace(options, classes=False), ENCODERS).classes == ()


def test_the_best_picture_is_told_where_it_is_not_good_enough(toys: Collection) -> None:
    options = SearchOptions(max_false_alarm=1e-9, allow_out_of_domain=True)
    found = answer([toys], TEXT, options, ENCODERS)
    (best,) = answer([toys], TEXT, replace(options, k=1, all=True), ENCODERS).hits
    assert (found.hits, found.rejected, found.nothing_passes) == ([], best, False)
    six = answer([toys], TEXT, replace(options, k=6, all=True), ENCODERS).hits
    assert [hit.id for hit in found.nearest] == [hit.id for hit in six]


def test_it_is_told_where_nothing_passes_the_filters(toys: Collection, photos: Path) -> None:
    options = SearchOptions(only=Filter(b"nowhere"), allow_out_of_domain=True)
    found = answer([toys], TEXT, options, ENCODERS)
    assert (found.hits, found.rejected, found.nothing_passes) == ([], None, True)
    itself = Query((Image(os.fspath(photos / "a.png")),))
    only = replace(options, only=Filter(name="a.png"))
    found = answer([toys], itself, only, ENCODERS)
    assert (found.hits, found.rejected, found.nothing_passes) == ([], None, False)


def test_a_class_is_a_query_or_a_filter(toys: Collection) -> None:
    options = SearchOptions(k=99, all=True, allow_out_of_domain=True, classes=True)
    everything = answer([toys], TEXT, options, ENCODERS)
    of_class = answer([toys], TEXT, replace(options, class_name="Red_Ball"), ENCODERS)
    pairs = zip(everything.hits, everything.classes, strict=True)
    assert of_class.hits
    assert [hit.id for hit in of_class.hits] == [
        hit.id for hit, name in pairs if name == "red ball"
    ]
    assert set(of_class.classes) <= {"red ball"}
    looked_for = answer([toys], Query((Class("red ball"),)), options, ENCODERS)
    truth = {path: toys.store.vector(known.id) for path, known in toys.store.known().items()}
    assert toys.texts is not None
    of_it = {hit.path for hit in of_class.hits}
    truth = {path: vector for path, vector in truth.items() if path in of_it}
    assert_exact(looked_for.hits, truth, toys.texts.gate.classes[0], 99)
    with pytest.raises(UsageError, match="no class 'cube'"):
        answer([toys], TEXT, replace(options, class_name="cube"), ENCODERS)


def test_only_tested_collections_will_do_where_that_is_asked(toys: Collection) -> None:
    with pytest.raises(NotTested):
        answer([toys], TEXT, SearchOptions(require_tested=True), Encoders(no_encoder, no_encoder))


def test_a_note_says_in_which_language_a_text_seems_to_be(toys: Collection) -> None:
    query = Query((Text("собака на снегу"),))
    options = SearchOptions(allow_out_of_domain=True)
    (note,) = answer([toys], query, options, ENCODERS).notes
    assert "Cyrillic" in note


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            ["a", "dog", "in", "snow"],
            'searching for 4 texts; for a phrase, quote it: "a dog in snow"',
        ),
        (["dog", "snow"], None),
        (["a dog in snow"], None),
        (["a dog", "snow", "hill", "sun"], None),
    ],
)
def test_a_phrase_without_quotes_is_noticed(texts: list[str], said: str | None) -> None:
    told = notes(Query(tuple(Text(text) for text in texts)))
    assert told == ((said,) if said else ())
