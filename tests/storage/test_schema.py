"""An index of an older clipsearch is read as it is, and brought up to date by the next writer."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from fakes import DIM, assert_exact, fake_spec, half, picture, unit, vectors_of
from small_index import QUERY, add, forest, pictures, snapshot

from clipsearch.errors import IndexNotFound, IndexUnreadable
from clipsearch.records import Filter, Near, Origin
from clipsearch.storage import schema as schema_module
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.lock import LOCK
from clipsearch.storage.schema import VERSION

PICTURES = [picture(b"%d.png" % n, n) for n in range(40)]

# As clipsearch once made them. Not to be changed: such indexes are out there.
SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    hash BLOB,
    width INTEGER, height INTEGER,
    taken_at TEXT,
    error TEXT
);
CREATE INDEX images_by_hash ON images (hash);
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
    vector BLOB NOT NULL
);
"""
SCHEMA_2 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: the FAISS file carries it
    path BLOB NOT NULL UNIQUE,             -- relative to the root, the file system's own bytes
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    hash BLOB,                             -- BLAKE2b-160 of the content; NULL where it failed
    width INTEGER, height INTEGER,
    taken_at TEXT,
    error TEXT                             -- why there is no vector; NULL for a good picture
);
CREATE INDEX images_by_hash ON images (hash);
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
    vector BLOB NOT NULL                   -- dim x fp16, little-endian
);
CREATE TABLE attachments (name TEXT PRIMARY KEY, value NOT NULL);
"""
SCHEMAS = {1: SCHEMA_1, 2: SCHEMA_2}


@pytest.fixture(params=SCHEMAS)
def old(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The index folder of an older version, with forty images."""
    directory = tmp_path / "photos" / FOLDER
    directory.mkdir(parents=True)
    catalog = sqlite3.connect(directory / CATALOG)
    catalog.executescript(SCHEMAS[request.param])
    catalog.execute(f"PRAGMA user_version = {request.param}")
    meta = {
        "vector_file": b"",
        "model": fake_spec().to_json(),
        "root": b"",
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:00+00:00",
    }
    catalog.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    for id, image in enumerate(PICTURES, start=1):
        facts = (*image.file[:3], image.content_hash, image.width, image.height, None, None)
        catalog.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (id, *facts))
        catalog.execute("INSERT INTO vectors VALUES (?, ?)", (id, half(image.vector).tobytes()))
    catalog.commit()
    catalog.close()
    return directory


def version(directory: Path) -> int:
    catalog = sqlite3.connect(directory / CATALOG)
    (found,) = catalog.execute("PRAGMA user_version").fetchone()
    catalog.close()
    return int(found)


def check(store: Store) -> None:
    assert_exact(store.search(unit(7), 10), vectors_of(PICTURES), unit(7), 10)
    assert len(store.known()) == len(PICTURES)
    assert store.vector(1).shape == (DIM,)


def schema(directory: Path) -> set[tuple[str, str]]:
    catalog = sqlite3.connect(directory / CATALOG)
    rows = catalog.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    catalog.close()
    words = (
        (name, " ".join(part.split("--")[0] for part in sql.splitlines())) for name, sql in rows
    )
    return {(name, "".join(sql.split())) for name, sql in words}


def test_a_reader_takes_an_old_index_as_it_is(old: Path) -> None:
    before = (old / CATALOG).read_bytes()
    with Store.open(old) as store:
        check(store)
        assert store.attachment("domain") is None
        assert store.attached("") == []
        assert {hit.camera for hit in store.search(unit(7), 40)} == {None}
        assert store.unseen() == len(PICTURES)
        assert all(entry.unseen for entry in store.known().values())
        for only in (Filter(camera="*"), Filter(near=Near(0, 0, 30_000))):
            assert store.search(unit(7), 40, only) == []
    assert (old / CATALOG).read_bytes() == before


def test_a_writer_brings_it_up_to_date_and_loses_nothing(old: Path, tmp_path: Path) -> None:
    with Store.open_for_writing(old) as store:
        check(store)
        with store.batch():
            store.attach("domain", "text")
            store.attach("texts", b"bytes")
        assert store.attachment("domain") == "text"
    assert version(old) == VERSION
    with Store.create(tmp_path / "new", tmp_path, fake_spec()):
        pass
    assert schema(old) == schema(tmp_path / "new")
    with Store.open(old) as store:
        check(store)
        assert (store.attachment("texts"), store.attached("t")) == (b"bytes", ["texts"])


@pytest.mark.parametrize("at", ["in the first statement", "in the second", "before the commit"])
def test_an_interrupted_migration_is_gone_on_with(
    old: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    wrong = {
        "in the first statement": "CREATE TABLE meta (key)",
        "in the second": "CREATE TABLE one (x);\nCREATE TABLE meta (key)",
        "before the commit": "CREATE TABLE one (x);\nSELECT abs(-9223372036854775808)",
    }
    before = version(old), schema(old)
    with monkeypatch.context() as patched:
        patched.setitem(schema_module._MIGRATIONS, before[0] + 1, wrong[at])
        with pytest.raises(IndexUnreadable):
            Store.open_for_writing(old)
    assert (version(old), schema(old)) == before
    with Store.open(old) as store:
        check(store)
    with Store.open_for_writing(old) as store:
        check(store)
    assert version(old) == VERSION


def test_every_step_is_taken_in_its_turn(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_module, "VERSION", VERSION + 2)
    later = {VERSION + 1: "CREATE TABLE one (x)", VERSION + 2: "DROP TABLE one"}
    monkeypatch.setattr(schema_module, "_MIGRATIONS", schema_module._MIGRATIONS | later)
    with Store.open_for_writing(old) as store:
        check(store)
    assert version(old) == VERSION + 2


def test_a_reader_stays_right_while_a_writer_brings_it_up_to_date(old: Path) -> None:
    with Store.open(old) as reader:
        check(reader)
        with Store.open_for_writing(old) as writer, writer.batch():
            writer.set_origins([(1, Origin("Leica M10", 1.0, 2.0)), (2, Origin())])
        check(reader)
        (hit,) = reader.search(unit(7), 40, Filter(camera="leica"))
        assert (hit.id, hit.camera, hit.latitude, hit.longitude) == (1, "Leica M10", 1.0, 2.0)
        assert reader.unseen() == len(PICTURES) - 2


def test_an_index_of_a_newer_version_is_refused_untouched(old: Path, tmp_path: Path) -> None:
    catalog = sqlite3.connect(old / CATALOG)
    catalog.execute(f"PRAGMA user_version = {VERSION + 1}")
    catalog.close()
    copy = shutil.copytree(old, tmp_path / "copy")
    for open_it in (Store.open, Store.open_for_writing):
        with pytest.raises(IndexUnreadable, match="newer clipsearch"):
            open_it(old)
    assert (old / CATALOG).read_bytes() == (copy / CATALOG).read_bytes()


@pytest.mark.parametrize(
    "command", ["verify --repair", "index --rebuild", "index --prune", "status", "probe remove x"]
)
def test_no_command_touches_an_index_of_a_newer_version(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    catalog = sqlite3.connect(old / CATALOG)
    catalog.execute(f"PRAGMA user_version = {VERSION + 1}")
    catalog.close()
    before = (old / CATALOG).read_bytes()
    monkeypatch.chdir(old.parent)
    folder = ["."] if command.startswith("index") else []
    assert run_here(*command.split(), *folder) == 2
    assert "newer clipsearch" in capsys.readouterr().err
    assert (old / CATALOG).read_bytes() == before
    assert {path.name for path in old.iterdir()} <= {CATALOG, LOCK}


def test_a_vector_of_an_old_index_is_the_same_after_it(old: Path) -> None:
    with Store.open(old) as store:
        before = {id: store.vector(id) for id in range(1, 41)}
    with Store.open_for_writing(old) as store:
        for id, vector in before.items():
            np.testing.assert_array_equal(store.vector(id), vector)


# -- indexes that cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize("opener", [Store.open, Store.open_for_writing])
def test_an_index_of_a_newer_clipsearch_is_left_as_it_is(
    writer: Store, directory: Path, opener: Callable[[Path], Store]
) -> None:
    add(writer, pictures(3))
    writer.close()
    connection = sqlite3.connect(directory / CATALOG)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = snapshot(directory)
    with pytest.raises(IndexUnreadable, match="newer clipsearch") as caught:
        opener(directory)
    assert "Upgrade" in caught.value.hint
    assert snapshot(directory) == before


@pytest.mark.parametrize("opener", [Store.open, Store.open_for_writing])
@pytest.mark.parametrize("content", [b"\0" * 5000, b"not a database " * 500])
def test_what_is_no_catalog_is_unreadable(
    tmp_path: Path, opener: Callable[[Path], Store], content: bytes
) -> None:
    (tmp_path / CATALOG).write_bytes(content)
    with pytest.raises(IndexUnreadable) as caught:
        opener(tmp_path)
    assert caught.value.hint
    assert (tmp_path / CATALOG).read_bytes() == content


@pytest.mark.parametrize("begun", [b"", b"SQLite"])
def test_an_index_whose_writer_was_killed_before_its_first_commit_is_made_anew(
    tmp_path: Path, begun: bytes
) -> None:
    if begun:  # an empty database of one page, as a rolled-back journal leaves it
        connection = sqlite3.connect(tmp_path / CATALOG)
        connection.execute("VACUUM")
        connection.close()
    else:
        (tmp_path / CATALOG).touch()
    with pytest.raises(IndexNotFound):
        Store.open_for_writing(tmp_path)
    with Store.create(tmp_path, tmp_path, fake_spec()) as store:
        assert store.known() == {}


@pytest.mark.parametrize("version", [0, VERSION])
def test_another_programs_database_is_unreadable(tmp_path: Path, version: int) -> None:
    connection = sqlite3.connect(tmp_path / CATALOG)
    connection.execute("CREATE TABLE notes (text)")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()
    with pytest.raises(IndexUnreadable):
        Store.open(tmp_path)


MODELS = [
    *(None, "", "{", "[]", "{}", 5, b"\xff", '"text"', "null"),
    fake_spec().to_json().replace('"name": "fake"', '"name": 5'),
    fake_spec().to_json().replace("[8, 8]", '["8", 8]'),
    fake_spec().to_json().replace('"embed_dim": 16', '"embed_dim": "16"'),
    fake_spec().to_json().replace('"embed_dim": 16', '"embed_dim": 0'),
    fake_spec().to_json().replace('{"embed_dim": 16}', "16"),
]


@pytest.mark.parametrize("model", MODELS)
def test_a_catalog_that_does_not_tell_its_model_is_unreadable(
    writer: Store, directory: Path, model: object
) -> None:
    with writer.batch():
        writer._db.execute("UPDATE meta SET value = ? WHERE key = 'model'", (model,))
    with pytest.raises(IndexUnreadable, match="which model"):
        Store.open(directory)


@pytest.mark.parametrize("key", ["root", "vector_file", "created_at", "updated_at"])
def test_a_catalog_that_lacks_something_else_is_unreadable(
    writer: Store, directory: Path, key: str
) -> None:
    for change in ("UPDATE meta SET value = 5 WHERE key = ?", "DELETE FROM meta WHERE key = ?"):
        writer._db.execute(change, (key,))
        with pytest.raises(IndexUnreadable, match=f"does not state its {key}") as caught:
            Store.open(directory)
        assert "--rebuild" in caught.value.hint


def test_a_catalog_that_is_cut_short_is_unreadable(writer: Store, directory: Path) -> None:
    add(writer, forest(400))
    writer.close()
    whole = (directory / CATALOG).read_bytes()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        (directory / CATALOG).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(IndexUnreadable) as caught, Store.open(directory) as reader:
            reader.search(QUERY, 3)
        assert "--rebuild" in caught.value.hint
