"""``clipsearch index``: what it does and says, and what is left when it cannot do it."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import (
    ASK,
    TINY_CONFIG,
    Ran,
    Run,
    make_picture,
    places_beside,
    run_here,
    save_snapshot,
)

from clipsearch.indexing import diagnosis
from clipsearch.models import registry

NAMES = ["a.png", "b.jpg", "c.webp", "sub/d.png", "sub/e.png"]


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    return save_snapshot(tmp_path_factory.mktemp("models") / "other", TINY_CONFIG, seed=1)


@pytest.fixture(scope="module")
def truncated_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A model of which half the weights have arrived."""
    folder = tmp_path_factory.mktemp("models") / "truncated"
    weights = Path(shutil.copytree(tiny_model, folder)) / "open_clip_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    return folder


def make_photos(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        make_picture(root / name, seed)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder. Not to be changed: ``collection`` is a copy."""
    root = make_photos(tmp_path_factory.mktemp("made") / "photos")
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "photos"))


def catalog(collection: Path) -> Path:
    return collection / ".clipsearch" / "catalog.sqlite3"


def rows(collection: Path) -> dict[str, tuple[int, bytes | None]]:
    """Path -> id and vector, as the catalog has them."""
    with sqlite3.connect(f"{catalog(collection).as_uri()}?mode=ro", uri=True) as db:
        found = db.execute("SELECT path, id, vector FROM images LEFT JOIN vectors USING (id)")
        listed = {os.fsdecode(path): (id, vector) for path, id, vector in found}
    db.close()
    return listed


def counts(done: Ran) -> str:
    """The summary, which is the last line on stderr but for the one that a new index adds."""
    assert done.out == b""
    lines = [line for line in done.err.splitlines() if "untested on the domain" not in line]
    return lines[-1].removeprefix("clipsearch: ")


# -- a run that works --------------------------------------------------------------------------


def test_a_first_run_embeds_all_and_a_second_one_nothing(
    run: Run, photos: Path, tiny_model: Path
) -> None:
    done = run("index", "photos", "--model", tiny_model)
    assert done.code == 0
    assert counts(done).startswith("photos: 6 added; 6 embedded in ")
    assert done.err.splitlines()[1:] == [
        "clipsearch: photos: untested on the domain everyday; test it with: clipsearch evaluate "
        "LABELED"
    ]
    before = rows(photos)
    assert sorted(before) == ["a.png", "b.jpg", "c.png", "d.webp", "sub/e.png", "sub/f.jpg"]
    assert {len(vector or b"") for _, vector in before.values()} == {2 * 32}

    done = run("index", photos)
    assert done.code == 0
    assert counts(done) == (f"{photos}: 6 unchanged")
    assert rows(photos) == before


def test_several_folders_are_indexed_one_by_one(run: Run, made: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(made, tmp_path / name)
    done = run("index", "one", "two")
    assert (done.code, done.out) == (0, b"")
    assert [line.split(",")[0] for line in done.err.splitlines()] == [
        "clipsearch: one: 5 unchanged",
        "clipsearch: two: 5 unchanged",
    ]


def test_a_folder_that_cannot_be_indexed_stops_no_other(
    run: Run, made: Path, tmp_path: Path, tiny_model: Path
) -> None:
    for name in ("one", "two"):
        shutil.copytree(made, tmp_path / name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / ".clipsearch").write_text("a file")
    done = run("index", "one", "missing", "broken", "two", "--model", tiny_model)
    assert (done.code, done.out) == (2, b"")
    first, missing, _, broken, _, last = done.err.splitlines()
    assert first.startswith("clipsearch: one: 5 unchanged")
    assert missing == "clipsearch: error: missing does not exist"
    assert broken.startswith(f"clipsearch: error: cannot make the index folder {tmp_path}")
    assert last.startswith("clipsearch: two: 5 unchanged")


def test_what_moved_copied_or_touched_is_not_embedded_again(run: Run, collection: Path) -> None:
    before = rows(collection)
    (collection / "a.png").rename(collection / "sub" / "renamed.png")
    shutil.copy(collection / "b.jpg", collection / "copy.jpg")
    (collection / "c.webp").touch()
    (collection / "sub" / "d.png").unlink()
    done = run("index", collection)
    assert done.code == 0
    assert counts(done) == (f"{collection}: 1 added, 1 moved, 1 removed, 3 unchanged")
    after = rows(collection)
    assert sorted(after) == ["b.jpg", "c.webp", "copy.jpg", "sub/e.png", "sub/renamed.png"]
    assert after["sub/renamed.png"] == before["a.png"]
    assert after["c.webp"] == before["c.webp"]
    assert after["copy.jpg"][1] == before["b.jpg"][1]


def test_a_subfolder_of_a_collection_updates_that_part_of_it(run: Run, collection: Path) -> None:
    (collection / "a.png").unlink()
    (collection / "sub" / "d.png").unlink()
    done = run("index", "sub", cwd=collection)
    assert done.code == 0
    assert counts(done) == "sub: 1 removed, 1 unchanged"
    assert not (collection / "sub" / ".clipsearch").exists()
    assert sorted(rows(collection)) == ["a.png", "b.jpg", "c.webp", "sub/e.png"]


def test_what_is_excluded_leaves_the_collection(run: Run, collection: Path) -> None:
    done = run("index", collection, "--exclude", "*.webp", "--exclude", "sub/d.png")
    assert done.code == 0
    assert sorted(rows(collection)) == ["a.png", "b.jpg", "sub/e.png"]


def test_what_is_excluded_stays_so_for_every_command(run: Run, collection: Path) -> None:
    run("index", collection, "--exclude", "sub/", "--max-pixels", "5000")
    assert ": 3 unchanged" in counts(run("index", collection))
    status = run("status", cwd=collection).lines
    assert "  excluded sub/" in status
    assert "  limit    5,000 pixels per image" in status
    record = json.loads(run("status", "--json", cwd=collection).out)
    assert (record["exclude"], record["max_pixels"]) == (["sub/"], 5000)
    assert run("verify", "--sample", "0", cwd=collection).out == b""
    (check,) = diagnosis.indexes(collection)
    assert check.text.endswith("; up to date")
    assert ": 2 added" in counts(run("index", collection, "--no-exclude"))


def test_a_folder_without_pictures_is_an_index_without_pictures(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = run("index", tmp_path / "empty", "--model", tiny_model)
    assert done.code == 0
    assert "ignored" not in done.err
    assert "empty: no images" in done.err
    assert "untested" not in done.err


def test_what_is_ignored_is_told_by_ending_where_it_is_worth_a_line(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for n, ending in enumerate(6 * [".CR3"] + 2 * [".pdf"] + 2 * [""] + [".a", ".b", ".c", ".d"]):
        (folder / f"{n}{ending}").write_bytes(b"x")
    done = run("index", "raw", "--model", tiny_model)
    assert done.code == 0
    assert done.err.splitlines()[0] == (
        "clipsearch: raw: no images that clipsearch can read; ignored 14 files: "
        "6 .cr3, 2 without an extension, 2 .pdf, 1 .a, 1 .b, 2 others"
    )
    make_picture(folder / "a.png")
    done = run("index", "raw")
    assert done.err.splitlines()[0].startswith("clipsearch: raw: ignored 14 files: 6 .cr3, ")
    for n in range(14):
        (folder / f"{n}.png").write_bytes((folder / "a.png").read_bytes())
    assert "ignored" not in run("index", "raw").err


def test_an_index_may_lie_elsewhere_and_nothing_is_written_among_the_pictures(
    tmp_path: Path, tiny_model: Path, run: Run
) -> None:
    root = make_photos(tmp_path / "photos")
    before = sorted(root.rglob("*"))
    elsewhere = tmp_path / "indexes" / "photos"
    assert run_here("index", root, "--index", elsewhere, "--model", tiny_model) == 0
    assert sorted(root.rglob("*")) == before
    assert (elsewhere / "catalog.sqlite3").is_file()
    done = run("index", root)  # it is remembered
    assert "5 unchanged" in counts(done)
    assert sorted(root.rglob("*")) == before


def test_an_index_takes_a_folder_of_its_own(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "home" / "documents").mkdir(parents=True)
    for place in (tmp_path / "home", Path("/"), tmp_path / "empty"):
        done = run("index", tmp_path / "empty", "--index", place, "--model", "no such model")
        assert done.code == 2
        assert ("has other files in it" in done.err) == (place.name != "empty")
    done = run("index", tmp_path / "empty", "--index", tmp_path / "home", "--model", tiny_model)
    assert (done.code, done.out) == (2, b"")
    assert f"--index {tmp_path}/home/clipsearch-index" in done.err
    assert os.listdir(tmp_path / "home") == ["documents"]
    place = tmp_path / "home" / "clipsearch-index"
    for _ in range(2):
        done = run("index", tmp_path / "empty", "--index", place, "--model", tiny_model)
        assert done.code == 0
    assert (place / "catalog.sqlite3").is_file()


def test_many_missing_pictures_are_kept_until_that_is_accepted(run: Run, collection: Path) -> None:
    """An unmounted disk is an empty folder."""
    for name in NAMES:
        (collection / name).unlink()
    done = run("index", collection)
    assert (done.code, done.out) == (2, b"")
    assert "5 of 5 indexed images are missing" in done.err
    assert sorted(rows(collection)) == NAMES
    done = run("index", collection, "--prune")
    assert done.code == 0
    assert rows(collection) == {}


# -- interrupted -------------------------------------------------------------------------------


COUNT = 320
"""Many more than are decoded ahead of the model, so that a signal finds the run at work."""


def wait_for_rows(collection: Path, more_than: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with suppress(sqlite3.OperationalError):  # there is no catalog yet, or it is empty
            if len(rows(collection)) > more_than:
                return
        time.sleep(0.02)


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_an_interrupted_run_keeps_what_it_has_and_the_next_goes_on(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    make_picture(root / "0.png", size=(800, 600))
    content = (root / "0.png").read_bytes()
    for n in range(1, COUNT):  # different files, since what follows a PNG's end is not looked at
        (root / f"{n}.png").write_bytes(content + n.to_bytes(2, "big"))
    kept: dict[str, tuple[int, bytes | None]] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            [sys.executable, "-m", "clipsearch", "index", root, "--model", tiny_model],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            wait_for_rows(root, len(kept), process)
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does, to the decoders as well
            else:
                process.send_signal(number)
            out, err = process.communicate()
        assert process.returncode == 130
        assert out == b""
        (line,) = err.decode().splitlines()
        assert line.startswith("clipsearch: interrupted; finished work is kept")
        now = rows(root)
        assert len(kept) < len(now) < COUNT
        assert kept.items() <= now.items()
        kept = now
    assert run_here("index", root) == 0
    summary = capsys.readouterr().err
    assert f"{root}: {COUNT - len(kept)} added, {len(kept)} unchanged; " in summary
    assert f"; {COUNT - len(kept)} embedded in " in summary
    assert "untested on the domain everyday" in summary  # the index is whole only now
    assert kept.items() <= rows(root).items()
    assert len(rows(root)) == COUNT


# -- another model -----------------------------------------------------------------------------


def test_another_model_is_refused_and_the_index_stays_as_it_is(
    run: Run, collection: Path, other_model: Path
) -> None:
    before = {path: path.read_bytes() for path in (collection / ".clipsearch").iterdir()}
    make_picture(collection / "new.png", seed=9)
    done = run("index", collection, "--model", other_model)
    assert (done.code, done.out) == (2, b"")
    assert f"not with {other_model}" in done.err
    assert "--rebuild" in done.err
    after = {path: path.read_bytes() for path in (collection / ".clipsearch").iterdir()}
    assert after == before


@pytest.mark.process
def test_a_rebuild_changes_the_model(
    run: Run, collection: Path, other_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(collection)
    assert run_here("index", collection, "--model", other_model, "--rebuild") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "5 added" in err
    assert "5 embedded" in err
    after = rows(collection)
    assert sorted(after) == NAMES
    assert all(after[name][1] != before[name][1] for name in NAMES)
    status = run("status", cwd=collection).out.decode()
    assert str(other_model) in status
    assert sorted(path.name for path in (collection / ".clipsearch").iterdir()) == [
        "catalog.sqlite3",
        "vectors.faiss",
        "writer.lock",
    ]
    assert len(run(*ASK, "a cat", cwd=collection).lines) == 5


def test_a_rebuild_that_fails_leaves_an_index_that_can_be_searched(
    run: Run, collection: Path, truncated_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = catalog(collection).read_bytes()
    expected = run(*ASK, "a cat", cwd=collection)
    assert run_here("index", collection, "--model", truncated_model, "--rebuild") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "does not contain the weights of" in err
    assert catalog(collection).read_bytes() == before
    assert run(*ASK, "a cat", cwd=collection) == expected
    assert run_here("index", collection) == 0


@pytest.mark.process
def test_a_rebuild_takes_up_the_weights_that_are_now_under_the_models_name(
    run: Run, own_cache: Path, made: Path, tmp_path: Path, tiny_model: Path, other_model: Path
) -> None:
    collection = Path(shutil.copytree(made, tmp_path / "photos"))
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    assert run("index", collection, "--model", model).code == 0
    shutil.copy(other_model / "open_clip_model.safetensors", model)
    for _ in range(2):
        done = run("index", collection)
        assert (done.code, done.out) == (2, b"")
        assert "is not the model that the index was made with" in done.err
        assert "--rebuild" in done.err
    before = rows(collection)
    assert run_here("index", collection, "--rebuild") == 0
    after = rows(collection)
    assert all(after[name][1] != before[name][1] for name in NAMES)
    assert len(run(*ASK, "a cat", cwd=collection).lines) == 5


@pytest.mark.process
def test_a_first_run_with_a_model_that_does_not_work_binds_to_nothing(
    run: Run,
    tmp_path: Path,
    tiny_model: Path,
    truncated_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_photos(tmp_path / "photos")
    assert run_here("index", root, "--model", truncated_model) == 2
    assert "does not contain the weights of" in capsys.readouterr().err
    assert run_here("index", root, "--model", tiny_model) == 0
    assert sorted(rows(root)) == NAMES
    assert len(run(*ASK, "a cat", cwd=root).lines) == 5


def test_weights_that_vanish_cost_nothing_but_saying_where_they_are_now(
    run: Run, own_cache: Path, collection: Path, tmp_path: Path, tiny_model: Path
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    assert run("index", collection, "--model", model).code == 0
    before, expected = rows(collection), run(*ASK, "a cat", "--json", cwd=collection)
    model.rename(tmp_path / "moved")
    for command in ([*ASK, "a cat"], ["index", "."]):
        done = run(*command, cwd=collection)
        assert (done.code, done.out) == (2, b"")
        assert f"the index was made with {model}, which is not on this machine" in done.err
        assert "--model" in done.err
    # An image that is in the collection is its own embedding.
    assert run(*ASK, "--image", "a.png", "-k", "1", cwd=collection).code == 0
    assert rows(collection) == before

    done = run("index", collection, "--model", tmp_path / "moved")
    assert done.code == 0
    assert "5 unchanged" in counts(done)
    assert "embedded" not in counts(done)
    assert rows(collection) == before
    done = run(*ASK, "a cat", "--json", cwd=collection)
    moved = expected.out.replace(os.fsencode(model), os.fsencode(tmp_path / "moved"))
    assert (done.code, done.out) == (0, moved)


# -- the default model -------------------------------------------------------------------------


@pytest.mark.process
def test_without_the_defaults_weights_a_new_index_is_made_with_the_built_in_model(
    run: Run, photos: Path
) -> None:
    if not (registry.pocket_folder() / "open_clip_model.safetensors").is_file():
        pytest.skip("the built-in model has not been built")
    done = run("index", photos)
    assert (done.code, done.out) == (0, b"")
    first, *_, summary, untested = done.err.splitlines()
    assert "using the small built-in model 'pocket'" in first
    assert "6 added" in summary
    assert "untested" in untested
    done = run(*ASK, "a cat", "--json", cwd=photos)
    assert (done.code, done.err) == (0, "")
    assert b'"model": "pocket"' in done.out


def test_a_model_that_was_asked_for_by_name_is_not_replaced(run: Run, photos: Path) -> None:
    done = run("index", photos, "--model", "ViT-B-16")
    assert (done.code, done.out) == (2, b"")
    assert "laion/CLIP-ViT-B-16-laion2B-s34B-b88K is not in the hub's cache" in done.err
    assert "clipsearch models" in done.err
    assert not (photos / ".clipsearch").exists()


COMMANDS = [("index", "photos"), ("embed", "photos", "out")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_needs_the_extra(
    command: tuple[str, ...], run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "clipsearch.indexing.on_ray", raising=False)
    monkeypatch.delattr("clipsearch.indexing.on_ray", raising=False)
    ran = run(*command, "--ray", "auto", cwd=photos.parent)
    assert ran.code == 2
    assert "--ray needs Ray, which is not installed" in ran.err
    assert "pip install 'clipsearch[ray]'" in ran.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--workers", "--gpus-per-worker"])
def test_options_of_a_cluster_need_one(
    command: tuple[str, ...], option: str, run: Run, photos: Path
) -> None:
    ran = run(*command, option, "2", cwd=photos.parent)
    assert ran.code == 2
    assert "Add --ray auto." in ran.err
