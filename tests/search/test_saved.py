"""Saved queries are kept whole, whoever else saves one, and a damaged file is not written over."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeEncoder, fake_spec

from clipsearch import paths
from clipsearch.errors import StoreError, UsageError
from clipsearch.models.load import Encoders
from clipsearch.search import saved
from clipsearch.search.embed import Embedded, embed_each
from clipsearch.search.query import Class, Image, Probe, Query, Stored, Text
from clipsearch.storage import known
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection

DOG = Query((Text("a dog", weight=2.0), Image("/a/ball.png", role="unwanted")))


def test_what_is_saved_is_there_until_it_is_removed() -> None:
    saved.save("dog", DOG)
    saved.save("class", Query((Class("dog"),)))
    assert saved.everything() == {"class": Query((Class("dog"),)), "dog": DOG}
    saved.remove("class")
    assert saved.everything() == {"dog": DOG}


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "5", '{"dog": 5}', '{"dog": [5]}', '{"dog": [{"kind": "text"}]}'),
        '{"dog": [{"kind": "smell", "what": "x"}]}',
        '{"dog": [{"kind": "text", "what": 5}]}',
        '{"dog": [{"kind": "text", "what": "x", "weight": "2"}]}',
    ],
)
def test_a_damaged_file_is_named_and_not_written_over(content: str) -> None:
    file = paths.data_dir() / "queries.json"
    file.parent.mkdir()
    file.write_text(content)
    for action in (saved.everything, lambda: saved.save("cat", DOG)):
        with pytest.raises(StoreError, match=r"queries\.json") as caught:
            action()
        assert "Repair or delete" in caught.value.hint
    assert file.read_text() == content


def test_a_file_of_the_version_before_is_read() -> None:
    file = paths.data_dir() / "queries.json"
    file.parent.mkdir()
    file.write_text(
        """{"all": [
 {"kind": "text", "what": "a dog", "weight": 2.0, "role": "wanted"},
 {"kind": "image", "what": "/a/17.png", "weight": 1.0, "role": "good"},
 {"kind": "class", "what": "dog", "weight": 1.0, "role": "wanted"},
 {"kind": "probe", "what": "lab/deep", "weight": 0.5, "role": "unwanted"}
]}"""
    )
    parts = (
        Text("a dog", weight=2.0),
        Image("/a/17.png", role="good"),
        Class("dog"),
        Probe("lab/deep", weight=0.5, role="unwanted"),
    )
    assert saved.everything() == {"all": Query(parts)}
    before = json.loads(file.read_text())
    saved.save("all", Query(parts))
    assert json.loads(file.read_text()) == before  # and the version before reads ours


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Store]:
    """An index that is known and has a probe `pets`, as far as its name goes."""
    (tmp_path / "photos").mkdir()
    with Store.create(tmp_path / "photos" / FOLDER, tmp_path / "photos", fake_spec()) as store:
        with store.batch():
            store.attach("probe:pets", b"")
        known.remember(store.directory, store.root)
        yield store


def test_a_name_means_a_query_or_a_probe(trained: Store) -> None:
    with pytest.raises(UsageError, match="has a probe 'pets', so @pets would be ambiguous"):
        saved.save("pets", DOG)
    assert saved.everything() == {}
    saved.save("dog", DOG)
    saved.require_no_query("pets")
    with pytest.raises(UsageError, match="saved query 'dog', so @dog would be ambiguous"):
        saved.require_no_query("dog")


def test_a_name_that_means_both_is_not_answered(trained: Store) -> None:
    saved.save("dog", Query((Text("a dog"),)))
    with trained.batch():
        trained.attach("probe:dog", b"")  # as a copied index may bring it
    asked = [Query(saved.read("@dog")), Query((Text("a dog"),))]
    encoders = Encoders(FakeEncoder, FakeEncoder)
    both, text = embed_each([Collection(trained)], asked, encoders, allow_out_of_domain=True)
    assert isinstance(both, UsageError)
    assert "'@dog' is both a saved query and a probe of" in str(both)
    assert "@dog/CLASS" in both.hint
    assert isinstance(text, Embedded)


def test_a_query_cannot_contain_itself(trained: Store) -> None:
    with pytest.raises(UsageError, match="'a' would contain itself"):
        saved.save("a", Query(saved.read("@a")))
    with pytest.raises(UsageError, match="'@b' is neither a saved query nor a probe"):
        saved.save("a", Query(saved.read("@b")))
    assert saved.everything() == {}
    for name, of in (("a", "a dog"), ("b", "@a"), ("a", "@b"), ("c", "@pets"), ("d", "@x/y")):
        saved.save(name, Query(saved.read(of)))
    assert saved.read("@a") == saved.read("@b") == (Text("a dog"),)


@pytest.mark.parametrize(
    ("names", "said"), [({"a": "a"}, "contains itself"), ({"a": "b", "b": "a"}, "contains '@b'")]
)
def test_a_query_that_contains_itself_is_an_error(names: dict[str, str], said: str) -> None:
    file = paths.data_dir() / "queries.json"
    file.parent.mkdir()
    kept = {name: [{"kind": "probe", "what": what}] for name, what in names.items()}
    file.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match=f"the saved query 'a' {said}"):
        saved.read("@a")


def test_a_text_stands_for_itself_or_for_a_saved_query() -> None:
    saved.save("dog", DOG)
    assert saved.read("^2:@dog") == (
        Text("a dog", weight=4.0),
        Image("/a/ball.png", weight=2.0, role="unwanted"),
    )
    assert saved.read("^3:a dog") == (Text("a dog", weight=3.0),)
    assert saved.read("@lab/deep") == (Probe("lab/deep"),)


def test_a_lasting_query_names_its_pictures_by_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    query = Query((Text("a dog"), Image("a.png", role="good")))
    lasting = Query((Text("a dog"), Image(str(tmp_path / "a.png"), role="good")))
    assert saved.lasting(query) == lasting
    for part in (Image("none.png"), Stored(12)):
        with pytest.raises(UsageError, match="is not a file"):
            saved.lasting(Query((part,)))


def test_a_pictures_number_cannot_be_saved() -> None:
    with pytest.raises(UsageError, match="id in a single collection"):
        saved.save("this", Query((Stored(12),)))
    assert saved.everything() == {}


def test_two_that_are_saved_at_once_are_both_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    writing = threading.Event()
    write_whole = saved.write_whole

    def slowly(path: Path, data: bytes) -> None:
        writing.set()
        time.sleep(0.3)  # long enough for the other to have read what there was
        write_whole(path, data)

    monkeypatch.setattr(saved, "write_whole", slowly)
    first = threading.Thread(target=saved.save, args=("first", DOG))
    first.start()
    assert writing.wait(10)
    saved.save("second", DOG)
    first.join()
    assert saved.everything() == {"first": DOG, "second": DOG}
