"""A damaged catalog gives its place to what can be read of it, and is itself kept."""

import sqlite3
from pathlib import Path

import pytest
from fakes import fake_spec, half, picture
from small_index import add

from clipsearch.records import ModelSpec
from clipsearch.storage.catalog import CATALOG, Store
from clipsearch.storage.rescue import rescue
from clipsearch.storage.vectors.embeddings import VECTORS


def page_of(catalog: Path, table: str) -> int:
    with sqlite3.connect(catalog) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
    db.close()
    return int(page)


def damage(catalog: Path, how: str) -> bytes:
    """Damage a catalog; its content from now on."""
    content = bytearray(catalog.read_bytes())
    if how == "cut short":
        del content[len(content) * 9 // 10 :]
    elif how == "garbage":
        content[:] = b"\xa5" * len(content)
    else:
        start = 4096 * (page_of(catalog, how) - 1)
        content[start : start + 4096] = b"\xa5" * 4096
    catalog.write_bytes(content)
    return bytes(content)


def default_model() -> ModelSpec:
    return fake_spec(fingerprint="e" * 64, name="default")


@pytest.mark.parametrize(
    ("how", "least", "model", "probe"),
    [
        ("attachments", 120, "fake", None),
        ("images", 0, "fake", b"kept"),
        ("meta", 0, "default", b"kept"),
        ("cut short", 40, "fake", None),
        ("garbage", 0, "default", None),
    ],
)
def test_what_can_be_read_is_saved_and_the_damaged_file_kept(
    writer: Store, directory: Path, root: Path, how: str, least: int, model: str, probe: bytes
) -> None:
    with writer.batch():
        writer.attach("probe:x", b"kept")
    vectors = add(writer, [picture(b"%d.png" % n, n) for n in range(120)])
    writer.update_vector_index()
    writer.close()
    damaged = damage(directory / CATALOG, how)
    for n in (1, 2):
        saved = rescue(directory, root, default_model)
        assert saved.pictures >= least
        assert saved.damaged == directory / f"catalog.damaged-{n}.sqlite3"
        assert saved.damaged.read_bytes() == damaged
        with Store.open(directory) as store:
            assert (store.root, store.spec.name, store.count()) == (root, model, saved.pictures)
            assert (store.sqlite_problems(), store.bad_vectors()) == ([], [])
            assert not store.vector_file_problem()
            assert store.attachment("probe:x") in (probe, b"kept" if probe is None else probe)
            for path, entry in store.known().items():
                assert (half(store.vector(entry.id)) == half(vectors[path])).all()
        (directory / CATALOG).write_bytes(damaged)


def test_an_embedding_that_cannot_be_one_is_not_saved(
    writer: Store, directory: Path, root: Path
) -> None:
    add(writer, [picture(b"%d.png" % n, n) for n in range(4)])
    for n, vector in enumerate((b"", b"\0" * 32, b"\xff" * 32), start=1):
        writer._db.execute("UPDATE vectors SET vector = ? WHERE id = ?", (vector, n))
    writer._db.execute("DELETE FROM meta WHERE key = 'root'")
    writer.close()
    assert rescue(directory, root, default_model).pictures == 1
    with Store.open(directory) as store:
        assert list(store.known()) == [b"3.png"]


def test_an_index_that_lies_elsewhere_is_of_the_same_folder_afterwards(
    tmp_path: Path, root: Path
) -> None:
    directory = tmp_path / "index"
    for key, expected in (("created_at", root), ("root", tmp_path / "named")):
        with Store.create(directory, root, fake_spec()) as store:
            store._db.execute("DELETE FROM meta WHERE key = ?", (key,))
        assert rescue(directory, tmp_path / "named", default_model).pictures == 0
        with Store.open(directory) as store:
            assert store.root == expected
        for name in (CATALOG, VECTORS):
            (directory / name).unlink()


def test_a_rescue_that_fails_leaves_the_damaged_catalog_and_can_be_repeated(
    writer: Store, directory: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(writer, [picture(b"0.png", 0)])
    writer._db.execute("DELETE FROM meta WHERE key = 'root'")
    writer.close()
    before = (directory / CATALOG).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "take_place", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rescue(directory, root, default_model)
    assert (directory / CATALOG).read_bytes() == before
    assert rescue(directory, root, default_model).pictures == 1
