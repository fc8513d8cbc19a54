"""``clipsearch watch`` as its user meets it: files come and go while it runs."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ASK, Run, make_picture, places_beside, run_here

pytest.importorskip("watchfiles")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder of three images. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.jpg", "sub/c.png"]):
        make_picture(root / name, seed)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "photos"))


class Watcher:
    """The program, watching, and what it has said."""

    def __init__(self, *arguments: str | Path, said_in: Path) -> None:
        self._said_in = said_in
        with said_in.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clipsearch", "watch", *arguments],
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=said_in.parent,
            )

    def said(self) -> str:
        return self._said_in.read_text()

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + 60
        while text not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, f"{text!r} is not in {self.said()}"
            time.sleep(0.05)

    def stop(self, number: int) -> str:
        """Send a signal; what was said in all."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=60)
        assert (self.process.returncode, out) == (130, b"")
        return self.said()


Watch = Callable[..., Watcher]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    started: list[Watcher] = []

    def start(*arguments: str | Path) -> Watcher:
        started.append(Watcher(*arguments, said_in=tmp_path / "said.txt"))
        return started[-1]

    yield start
    for watcher in started:
        watcher.process.kill()
        watcher.process.wait()
        assert watcher.process.stdout is not None
        watcher.process.stdout.close()


def found(run: Run, collection: Path) -> list[str]:
    done = run(*ASK, "a cat", "-k", "100", cwd=collection)
    assert done.code == 0
    return sorted(done.lines)


def catalogd(collection: Path) -> dict[str, str | None]:
    """Path -> why it is no image, or None."""
    with sqlite3.connect(
        f"{(collection / '.clipsearch/catalog.sqlite3').as_uri()}", uri=True
    ) as db:
        rows = db.execute("SELECT path, error FROM images").fetchall()
    db.close()
    return {os.fsdecode(path): error for path, error in rows}


def test_what_comes_changes_moves_and_goes_is_found_or_not_found_at_once(
    run: Run, watch: Watch, collection: Path
) -> None:
    make_picture(collection / "before.png", seed=7)
    watcher = watch("photos")
    watcher.wait_for("photos: 1 added, 3 unchanged")
    make_picture(collection / "new.png", seed=8)
    (collection / "a.png").rename(collection / "sub" / "renamed.png")
    (collection / "b.jpg").unlink()
    (collection / "text.txt").write_text("no image")
    (collection / os.fsdecode(b"\xff.png")).write_bytes((collection / "before.png").read_bytes())
    watcher.wait_for("photos: 2 added, 1 moved, 1 removed, 2 unchanged")
    names = [os.fsdecode(b"\xff.png"), "before.png", "new.png", "sub/c.png", "sub/renamed.png"]
    done = run(*ASK, "a cat", "-0", cwd=collection)
    assert sorted(map(os.fsdecode, done.out.split(b"\0")[:-1])) == sorted(names)
    # Others write in between.
    assert run("index", collection).code == 0
    first, *_, last = watcher.stop(signal.SIGTERM).splitlines()
    assert first == "clipsearch: watching photos; press Ctrl-C to stop"
    assert last.startswith("clipsearch: interrupted; finished work is kept")
    assert watcher.said().count("loading the model") == 1
    assert watcher.said().count(" added, ") == 2


def test_a_file_is_left_alone_while_it_is_being_written(watch: Watch, collection: Path) -> None:
    watcher = watch("photos")
    shutil.copy(collection / "a.png", collection / "ready.png")
    whole = (collection / "a.png").read_bytes()
    step = len(whole) // 8
    with (collection / "slow.png").open("wb", buffering=0) as file:
        for start in range(0, len(whole), step):
            file.write(whole[start : start + step])
            time.sleep(0.4)
    until = time.monotonic() + 60
    while "slow.png" not in (errors := catalogd(collection)):
        assert time.monotonic() < until, watcher.said()
        time.sleep(0.1)
    said = watcher.stop(signal.SIGINT)
    assert set(errors.values()) == {None}  # it was never seen as an image that is cut short
    assert "skipping" not in said


def test_a_collection_that_is_gone_or_locked_is_waited_for(
    watch: Watch, collection: Path, tmp_path: Path
) -> None:
    from filelock import FileLock

    watcher = watch("photos", "--poll", "0.2")
    watcher.wait_for("watching photos")
    lock = FileLock(collection / ".clipsearch" / "writer.lock")
    with lock:
        shutil.copy(collection / "a.png", collection / "new.png")
        watcher.wait_for("photos: another clipsearch is writing to")
    watcher.wait_for("photos: 1 added")
    collection.rename(tmp_path / "away")
    watcher.wait_for("photos: cannot read the folder")
    (tmp_path / "photos").mkdir()  # where the disk was mounted
    watcher.wait_for("photos: the index at")
    assert list((tmp_path / "photos").iterdir()) == []
    (tmp_path / "photos").rmdir()
    shutil.copy(tmp_path / "away" / "a.png", tmp_path / "away" / "later.png")
    (tmp_path / "away").rename(collection)
    watcher.wait_for("photos: 1 added, 4 unchanged")
    for name in ("a.png", "b.jpg", "sub/c.png", "new.png", "later.png"):
        (collection / name).unlink()
    watcher.wait_for("photos: 5 of 5 indexed images are missing")
    said = watcher.stop(signal.SIGTERM)
    assert said.count("Is the disk mounted?") == 2
    assert said.count("another clipsearch is writing") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing does not exist"),
        (["text.txt"], "text.txt is not a folder"),
        ([".", "photos", "--index", "there"], "--index takes one folder"),
        (["--poll", "0"], "--poll 0 is out of range"),
        (["--poll", "nan"], "--poll nan is out of range"),
        (["--poll", "inf"], "--poll inf is out of range"),
    ],
)
def test_what_cannot_be_watched_is_an_error(
    run: Run, tmp_path: Path, photos: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "text.txt").write_text("no folder")
    done = run("watch", *arguments)
    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("clipsearch: error: ")
    assert message in done.err


def test_without_watchfiles_the_way_to_get_it_is_shown(run_process: Run, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['watchfiles'] = None; from clipsearch.cli import main; main()"
    )
    done = run_process("watch", ".", command=[sys.executable, "-c", program])
    assert (done.code, done.out) == (2, b"")
    assert done.err == (
        "clipsearch: error: watch needs the package watchfiles, which is not installed\n"
        "  Install it with: pip install 'clipsearch[watch]'\n"
    )
