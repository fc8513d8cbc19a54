"""``clipsearch verify`` and ``index --wait``, in processes of their own."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ASK, Run, make_picture, places_beside, run_here

from clipsearch.storage.catalog import FOLDER, Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Five indexed images. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    root.mkdir()
    for n in range(5):
        make_picture(root / f"{n}.png", n)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "photos"))


def swap_two_embeddings(collection: Path) -> None:
    catalog = sqlite3.connect(collection / FOLDER / "catalog.sqlite3")
    with catalog:
        catalog.execute("UPDATE vectors SET id = -id WHERE id <= 2")
        catalog.execute("UPDATE vectors SET id = 3 + id WHERE id < 0")
    catalog.close()


def test_a_whole_index(run: Run, collection: Path) -> None:
    done = run("verify", cwd=collection)
    assert (done.code, done.out) == (0, b"")
    assert done.err == f"clipsearch: {collection}: no damage found\n"


@pytest.mark.process
def test_embeddings_that_changed_places_are_found_and_mended(run: Run, collection: Path) -> None:
    swap_two_embeddings(collection)
    done = run("verify", "--sample", "5", cwd=collection)
    assert done.code == 2
    assert [line.split(":")[0] for line in done.lines] == ["embedding", "embedding"]
    assert "verify --repair repairs" in done.err
    done = run("verify", "--sample", "5", "--json", cwd=collection)
    kinds = [json.loads(line)["kind"] for line in done.lines]
    assert (done.code, kinds) == (2, ["embedding", "embedding"])
    done = run("verify", "--sample", "5", "--repair", cwd=collection)
    assert done.code == 0
    assert "removed 2 images with a wrong embedding" in done.err
    assert "clipsearch index" in done.err
    assert run("index", ".", cwd=collection).code == 0
    done = run("verify", "--sample", "5", cwd=collection)
    assert (done.code, done.out) == (0, b"")


def test_a_damaged_catalog_is_saved_as_far_as_it_can_be_read(run: Run, collection: Path) -> None:
    path = collection / FOLDER / "catalog.sqlite3"
    catalog = sqlite3.connect(path)
    (page,) = catalog.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'images_by_hash'"
    ).fetchone()
    catalog.close()
    content = bytearray(path.read_bytes())
    content[4096 * (page - 1) : 4096 * page] = b"\xa5" * 4096
    path.write_bytes(content)
    done = run("verify", cwd=collection)
    assert done.code == 2
    assert done.out.startswith(b"catalog: ")
    done = run("verify", "--repair", cwd=collection)
    assert done.code == 0
    assert "saved 5 images" in done.err
    done = run("verify", "--sample", "5", cwd=collection)
    assert (done.code, done.out) == (0, b"")
    assert len(run(*ASK, "snow", cwd=collection).lines) == 5


def test_a_catalog_of_which_nothing_can_be_read(run: Run, collection: Path) -> None:
    path = collection / FOLDER / "catalog.sqlite3"
    path.write_bytes(b"\xa5" * path.stat().st_size)
    for options in ([], ["--repair"]):
        done = run("verify", *options, cwd=collection)
        assert (done.code, done.out) == (2, b"")
        assert "Traceback" not in done.err
        assert "clipsearch index FOLDER --rebuild" in done.err


def test_an_index_whose_pictures_are_not_there(run: Run, collection: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    shutil.copytree(collection / FOLDER, away)
    catalog = sqlite3.connect(away / "catalog.sqlite3")
    with catalog:
        catalog.execute("UPDATE meta SET value = ? WHERE key = 'root'", (b"/no/such/folder",))
    catalog.close()
    done = run("verify", "--index", away)
    assert (done.code, done.out) == (0, b"")
    assert "/no/such/folder does not exist; checking the index without its images" in done.err


# -- index --wait --------------------------------------------------------------------------------


def test_the_holder_of_the_lock_is_named(run: Run, collection: Path) -> None:
    with Store.open_for_writing(collection / FOLDER):
        done = run("index", ".", cwd=collection)
        assert (done.code, done.out) == (2, b"")
        assert f"another clipsearch is writing to {collection / FOLDER}: process " in done.err
        assert "--wait" in done.err
    assert not (collection / FOLDER / "writer.txt").exists()


@pytest.mark.process
def test_a_run_may_wait_for_another(collection: Path) -> None:
    command = [sys.executable, "-m", "clipsearch", "index", ".", "--wait"]
    with Store.open_for_writing(collection / FOLDER) as store:
        waiting = subprocess.Popen(
            command, cwd=collection, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert "; waiting for it" in said
        assert waiting.poll() is None
        store.close()
        out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) == (0, "")
    assert "5 unchanged" in err


@pytest.mark.process
def test_whoever_waits_can_be_interrupted(collection: Path) -> None:
    command = [sys.executable, "-m", "clipsearch", "index", ".", "--wait"]
    with (
        Store.open_for_writing(collection / FOLDER),
        subprocess.Popen(command, cwd=collection, stderr=subprocess.PIPE, text=True) as waiting,
    ):
        assert waiting.stderr is not None
        assert "; waiting for it" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        try:
            assert waiting.wait(30) == 130
        finally:
            waiting.kill()
        assert "Traceback" not in waiting.stderr.read()


def test_the_name_of_a_killed_holder_is_not_told_of_the_next(run: Run, collection: Path) -> None:
    (collection / FOLDER / "writer.txt").write_text("process 1 on \x1b[2J since long ago")
    assert run("index", ".", cwd=collection).code == 0
    (collection / FOLDER / "writer.txt").write_text("process 1 on \x1b[2J since long ago")
    assert run("verify", "--repair", cwd=collection).code == 0
    assert not (collection / FOLDER / "writer.txt").exists()
