"""``clipsearch doctor``: what it sees, and what it makes of it."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, make_picture, places_beside, run_here
from fakes import fake_spec
from filelock import FileLock

from clipsearch import cli, paths
from clipsearch.indexing import diagnosis
from clipsearch.models import registry
from clipsearch.storage import known
from clipsearch.storage.catalog import FOLDER, Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder of three images. Not to be changed: ``collection`` is a copy."""
    root = tmp_path_factory.mktemp("made") / "photos"
    root.mkdir()
    for seed, name in enumerate(["a.png", "b.jpg", "c.webp"]):
        make_picture(root / name, seed)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(made, tmp_path / "photos"))
    known.remember(root / ".clipsearch", root)
    return root


Checks = list[dict[str, Any]]


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Checks]:
    """Exit code and checks of a run in this process, where torch is loaded already."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        code = cli.run(["doctor", "--json", *arguments])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def of(checks: Checks, area: str) -> Checks:
    return [check for check in checks if check["area"] == area]


def test_a_machine_on_which_all_is_well_is_said_to_be_so(run: Run, collection: Path) -> None:
    done = run("doctor", "--json", env={"NO_COLOR": "1"})
    assert done.code == 0
    assert done.err == "clipsearch: loading torch to check the device\n"
    checks = [json.loads(line) for line in done.lines]
    assert all(check.keys() == {"area", "state", "text", "hint"} for check in checks)
    # The default's weights are on few machines that run the tests.
    assert {check["area"] for check in checks if check["state"] != "ok"} <= {"model"}
    texts = [check["text"] for check in checks]
    assert any(text.startswith("torch 2.") for text in texts)
    (index,) = of(checks, "index")
    assert index["text"].startswith(f"{collection}: 3 images, ")
    assert index["text"].endswith("; up to date")
    (device,) = of(checks, "device")
    assert device["text"].split(":")[0].split(",")[0] in ("cpu", "cuda")
    assert device["text"].endswith(("float32", "bfloat16", "float16"))
    (colour,) = of(checks, "color")
    assert colour["text"] == "none: NO_COLOR is set"
    (network,) = of(checks, "network")
    assert "HF_HUB_OFFLINE" in network["text"]


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals")
def test_a_terminal_is_described(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-kitty", "COLUMNS": "93", "PYTHONIOENCODING": "latin-1"}
    env.pop("NO_COLOR", None)
    program = "from clipsearch.indexing.diagnosis import *; print(*terminal(), sep=chr(10))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, env=env):
        pass
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "text='93 x " in shown
    assert "xterm-kitty" in shown
    assert "names outside this encoding are shown with escapes'" in shown
    assert "text='kitty graphics" in shown
    assert "area='color', state=<State.OK: 'ok'>, text='yes'" in shown


def test_a_folder_that_has_changed_is_a_warning_with_the_next_step(
    capsys: pytest.CaptureFixture[str], collection: Path
) -> None:
    (collection / "a.png").unlink()
    make_picture(collection / "new.png", seed=9)
    make_picture(collection / "newer.png", seed=9)
    code, checks = examined(capsys)
    (index,) = of(checks, "index")
    assert (code, index["state"]) == (0, "warning")
    assert "2 new or changed, 1 gone" in index["text"]
    assert index["hint"] == f"clipsearch index {collection}"


def test_a_folder_of_files_that_cannot_be_read_says_which(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.cr3").write_bytes(b"x")
    Store.create(tmp_path / FOLDER, tmp_path, fake_spec()).close()
    texts = [check.text for check in diagnosis.indexes(tmp_path)]
    assert any("; files that clipsearch does not read: 1 .cr3" in text for text in texts)


def test_pictures_that_are_away_are_a_warning(
    capsys: pytest.CaptureFixture[str], collection: Path, tmp_path: Path
) -> None:
    away = Path(shutil.copytree(collection / ".clipsearch", tmp_path / "away"))
    with sqlite3.connect(away / "catalog.sqlite3") as catalog:  # as if made with --index
        catalog.execute("UPDATE meta SET value = ? WHERE key = 'root'", (b"/no/such/photos",))
    catalog.close()
    known.remember(away, Path("/no/such/photos"))
    collection.rename(tmp_path / "moved")
    code, checks = examined(capsys)
    assert code == 0
    at_away, at_photos = of(checks, "index")
    assert (at_away["state"], at_photos["state"]) == ("warning", "warning")
    assert at_away["text"].endswith("the folder does not exist")
    assert f"the index at {collection / '.clipsearch'} does not exist" in at_photos["text"]


def test_an_index_that_may_not_be_looked_at_is_a_warning(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_not(directory: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(directory))

    monkeypatch.setattr(diagnosis.Store, "exists", may_not)
    monkeypatch.setattr(known, "holding", lambda folder: None)
    (check,) = diagnosis.indexes(collection)
    assert (check.state, check.text) == ("warning", f"{collection}: Permission denied")


def test_a_damaged_index_is_a_problem(capsys: pytest.CaptureFixture[str], collection: Path) -> None:
    catalog = collection / ".clipsearch" / "catalog.sqlite3"
    catalog.write_bytes(b"no database" * 1000)
    code, checks = examined(capsys)
    (index,) = of(checks, "index")
    assert (code, index["state"]) == (2, "problem")
    assert f"cannot read {catalog}" in index["text"]
    assert index["hint"]


def test_an_index_whose_model_is_gone_is_a_problem(
    capsys: pytest.CaptureFixture[str], collection: Path
) -> None:
    with sqlite3.connect(collection / ".clipsearch" / "catalog.sqlite3") as catalog:
        ((text,),) = catalog.execute("SELECT value FROM meta WHERE key = 'model'").fetchall()
        spec = {**json.loads(text), "name": "/no/such/model", "weights_sha256": "0" * 64}
        catalog.execute("UPDATE meta SET value = ? WHERE key = 'model'", (json.dumps(spec),))
    catalog.close()
    code, checks = examined(capsys)
    first, second = of(checks, "index")
    assert (code, first["state"], second["state"]) == (2, "problem", "ok")
    assert "which is not on this machine" in first["text"]


def test_who_writes_is_told_and_damage_of_the_vector_file(
    capsys: pytest.CaptureFixture[str], collection: Path
) -> None:
    vectors = collection / ".clipsearch" / "vectors.faiss"
    vectors.write_bytes(vectors.read_bytes()[:-5])
    with FileLock(collection / ".clipsearch" / "writer.lock"):
        (collection / ".clipsearch" / "writer.txt").write_text("process 7 on a since b")
        code, checks = examined(capsys)
    index, damage = of(checks, "index")
    assert (code, index["state"], damage["state"]) == (0, "ok", "warning")
    assert index["text"].endswith("process 7 on a since b is writing to it")
    assert "the vector file cannot be used: it is cut short" in damage["text"]
    # The lock of a dead process is nobody's.
    assert of(examined(capsys)[1], "index")[0]["text"].endswith("; up to date")


def test_a_device_that_is_not_there_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = examined(capsys, "--device", "toaster")
    (device,) = of(checks, "device")
    assert (code, device["state"], device["hint"]) == (2, "problem", "Use --device auto or cpu.")
    assert "the device 'toaster' cannot be used" in device["text"]


def test_what_is_missing_of_the_installation_is_a_problem_with_the_next_step(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version

    def without_faiss(name: str) -> str:
        if name in ("faiss-cpu", "watchfiles"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_faiss)
    required = ["numpy>=1.26", 'watchfiles>=1.0; extra == "watch"', 'ruff; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    monkeypatch.setattr(registry, "pocket_folder", lambda: tmp_path / "nowhere")
    code, checks = examined(capsys)
    assert code == 2
    problems = {check["text"]: check["hint"] for check in checks if check["state"] == "problem"}
    assert problems == {
        "faiss-cpu is not installed": "pip install faiss-cpu",
        "the built-in model is missing": "pip install --force-reinstall clipsearch",
    }
    (extra,) = of(checks, "extra")
    assert extra["text"] == "watch: not installed; to install it: pip install 'clipsearch[watch]'"


def test_folders_that_cannot_be_written_to_or_are_full_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(paths, "data_dir", lambda: tmp_path / "file" / "data")
    monkeypatch.setattr(
        diagnosis.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1)
    )
    data, cache = diagnosis.directories()
    assert (data.state, cache.state) == ("warning", "warning")
    assert "is not writable" in data.text
    assert "CLIPSEARCH_DATA_DIR" in data.hint
    assert "0.0 GB free" in cache.text


def test_people_get_a_line_a_check_and_the_next_step_below_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert cli.run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok       python     3.")
    at = next(n for n, line in enumerate(lines) if "no index yet" in line)
    assert lines[at + 1] == "         clipsearch index FOLDER"
