"""Images by row: added, copied, moved and forgotten, each under an id of its own."""

from pathlib import Path

import numpy as np
import pytest
from fakes import (
    assert_exact,
    fake_spec,
    half,
    picture,
    unit,
)
from small_index import QUERY, add, check, forest, pictures

from clipsearch.errors import IndexUnreadable, ModelMismatch
from clipsearch.records import Failure, ImageFile, KnownImage, Scope
from clipsearch.storage.catalog import CATALOG, Store

# -- changing ------------------------------------------------------------------------------------


def test_an_id_is_never_used_twice(writer: Store, directory: Path) -> None:
    seen: set[int] = set()
    for turn in range(4):
        add(writer, pictures(3, start=3 * turn))
        ids = {entry.id for entry in writer.known().values()}
        assert not ids & seen
        seen |= ids
        with writer.batch():
            writer.remove(list(writer.known()))
        if turn == 1:
            writer.close()
            writer = Store.open_for_writing(directory)
    writer.close()
    assert len(seen) == 12


def test_a_replaced_picture_gets_a_new_id_and_only_its_new_vector(writer: Store) -> None:
    add(writer, [picture(b"a", 1), picture(b"b", 2)])
    old = writer.known()[b"a"].id
    add(writer, [picture(b"a", 3)])
    new = writer.known()[b"a"].id
    assert new > old
    with pytest.raises(KeyError):
        writer.vector(old)
    np.testing.assert_array_equal(writer.vector(new), half(unit(3)))
    assert writer.find_content(picture(b"a", 1).content_hash) == []
    assert len(writer.search(QUERY, 10)) == 2


def test_of_two_pictures_with_one_path_in_a_batch_the_later_counts(writer: Store) -> None:
    vectors = add(writer, [picture(b"a", 1), picture(b"a", 2)])
    assert_exact(writer.search(unit(2), 5), vectors, unit(2), 5)


def test_a_copy_is_a_second_picture_with_the_same_vector(writer: Store) -> None:
    add(writer, [picture(b"a", 1)])
    source = writer.known()[b"a"].id
    with writer.batch():
        writer.add_copy(ImageFile(b"b", 9, 10), source)
    known = writer.known()
    assert known[b"b"] == KnownImage(known[b"b"].id, 9, 10, failed=False)
    assert known[b"b"].id != source
    np.testing.assert_array_equal(writer.vector(known[b"b"].id), writer.vector(source))
    assert writer.find_content(picture(b"a", 1).content_hash) == [
        (source, b"a"),
        (known[b"b"].id, b"b"),
    ]
    first, second = writer.search(unit(1), 5)
    assert {first.path, second.path} == {b"a", b"b"}
    assert (first.width, first.height) == (second.width, second.height)


def test_a_copy_over_another_picture_takes_its_place(writer: Store) -> None:
    add(writer, [picture(b"a", 1), picture(b"b", 2)])
    with writer.batch():
        writer.add_copy(ImageFile(b"b", 1, 1), writer.known()[b"a"].id)
    vectors = {b"a": unit(1), b"b": unit(1)}
    assert_exact(writer.search(unit(2), 5), vectors, unit(2), 5)


def test_a_moved_picture_keeps_its_id_and_vector(writer: Store) -> None:
    add(writer, [picture(b"a", 1)])
    id = writer.known()[b"a"].id
    with writer.batch():
        writer.move(id, ImageFile(b"sub/new", 77, 88))
    assert writer.known() == {b"sub/new": KnownImage(id, 77, 88, failed=False)}
    np.testing.assert_array_equal(writer.vector(id), half(unit(1)))
    assert [hit.path for hit in writer.search(QUERY, 5)] == [b"sub/new"]


def test_a_touched_picture_is_moved_onto_itself(writer: Store) -> None:
    add(writer, [picture(b"a", 1)])
    id = writer.known()[b"a"].id
    with writer.batch():
        writer.move(id, ImageFile(b"a", 1001, 999))
    assert writer.known() == {b"a": KnownImage(id, 1001, 999, failed=False)}


def test_a_picture_that_moves_onto_another_takes_its_place(writer: Store) -> None:
    add(writer, [picture(b"a", 1), picture(b"b", 2)])
    id = writer.known()[b"a"].id
    with writer.batch():
        writer.move(id, ImageFile(b"b", 1, 1))
    assert list(writer.known()) == [b"b"]
    assert_exact(writer.search(unit(2), 5), {b"b": unit(1)}, unit(2), 5)


def test_a_failed_file_is_known_and_never_found(writer: Store) -> None:
    add(writer, [picture(b"a", 1), picture(b"b", 2)])
    with writer.batch():
        writer.add_failed(ImageFile(b"a", 5, 6), "the file is empty")
        writer.add_failed(ImageFile(b"c", 7, 8), "damaged image (x)")
    known = writer.known()
    assert [known[path].failed for path in (b"a", b"b", b"c")] == [True, False, True]
    assert (known[b"a"].size, known[b"a"].mtime_ns) == (5, 6)
    assert writer.find_content(picture(b"a", 1).content_hash) == []
    assert [hit.path for hit in writer.search(QUERY, 5)] == [b"b"]
    status = writer.status()
    assert status.images == 1
    assert status.failed == [(b"a", "the file is empty"), (b"c", "damaged image (x)")]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "luck"}', b"\xff", 5])
def test_a_failure_is_kept_and_a_damaged_one_is_unknown(writer: Store, text: object) -> None:
    failure = Failure("pixels", "pillow 12", pixels=10**9, tries=2)
    with writer.batch():
        writer.add_failed(ImageFile(b"a", 5, 6), "too large", failure)
    assert writer.known()[b"a"].failure == failure
    assert writer.status().failures == [failure]
    with writer.batch():
        writer._db.execute("UPDATE images SET failure = ?", (text,))
    assert writer.known()[b"a"] == KnownImage(1, 5, 6, failed=True)
    assert writer.status().failures == [None]


def test_the_scope_is_kept(writer: Store, directory: Path) -> None:
    assert writer.scope == Scope(())
    scope = Scope(("private/", "\udce9*"), 10**9)
    with writer.batch():
        writer.set_scope(scope)
    with Store.open(directory) as reader:
        assert reader.scope == reader.status().scope == scope


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"exclude": [5], "max_pixels": null}', '{"max_pixels": 5}', b"\xff"]
)
def test_a_damaged_scope_is_not_taken_for_none(writer: Store, text: str | bytes) -> None:
    with writer.batch():
        writer.attach("scope", text)
    with pytest.raises(IndexUnreadable, match="list of excluded files"):
        _ = writer.scope


def test_a_failed_file_that_is_mended_is_found(writer: Store) -> None:
    with writer.batch():
        writer.add_failed(ImageFile(b"a", 5, 6), "the file is empty")
    add(writer, [picture(b"a", 1)])
    assert not writer.known()[b"a"].failed
    assert writer.status().failed == []
    assert [hit.path for hit in writer.search(QUERY, 5)] == [b"a"]


def test_removed_pictures_are_gone_with_their_vectors(writer: Store) -> None:
    vectors = add(writer, pictures(10))
    gone = writer.known()[b"0003.png"].id
    with writer.batch():
        writer.remove([b"0003.png", b"never there"])
    del vectors[b"0003.png"]
    assert set(writer.known()) == set(vectors)
    with pytest.raises(KeyError):
        writer.vector(gone)
    assert_exact(writer.search(QUERY, 20), vectors, QUERY, 20)


def test_content_is_found_only_where_it_is(writer: Store) -> None:
    assert writer.find_content(b"x" * 20) == []
    add(writer, [picture(b"a", 1), picture(b"b", 2), picture(b"c", 1)])
    found = writer.find_content(picture(b"", 1).content_hash)
    assert [path for _, path in found] == [b"a", b"c"]


# -- the model -----------------------------------------------------------------------------------


def test_another_model_is_refused_and_nothing_changes(writer: Store, directory: Path) -> None:
    vectors = add(writer, forest(10))
    before = (directory / CATALOG).read_bytes()
    with pytest.raises(ModelMismatch) as caught, writer.batch():
        writer.set_spec(fake_spec(fingerprint="a" * 64, name="other"))
    assert "--rebuild" in caught.value.hint
    assert "fake" in str(caught.value)
    assert "other" in str(caught.value)
    assert writer.spec == fake_spec()
    assert (directory / CATALOG).read_bytes() == before
    check(writer, vectors)


def test_the_same_model_under_another_name_is_noted(writer: Store, directory: Path) -> None:
    vectors = add(writer, forest(10))
    with writer.batch():
        writer.set_spec(fake_spec(name="/new/place"))
    assert writer.spec.name == "/new/place"
    with Store.open(directory) as reader:
        assert reader.spec == fake_spec(name="/new/place")
        check(reader, vectors)
