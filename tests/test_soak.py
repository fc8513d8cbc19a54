"""Everything at once, for half an hour, and killed at random: nothing wrong, nothing lost.

Two writers that wait for each other, three searchers, a ``watch`` and a ``browse`` work on one
folder, in which files come, go, change and move. Each program is killed now and then and started
again. The embedding of an image is a hash of its pixels, so every score that an answer gives can
be compared with what the file holds or held.

``CLIPSEARCH_SOAK_MINUTES`` says how long it takes.
"""

import html
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from fakes import unit
from hashing_program import DIM, NotedEncoder

from clipsearch.images import scan
from clipsearch.images.decode import decode
from clipsearch.indexing import verify
from clipsearch.records import ModelFiles, Preprocessing, Vectors
from clipsearch.storage.catalog import FOLDER, Store

HERE = Path(__file__).parent
MINUTES = float(os.environ.get("CLIPSEARCH_SOAK_MINUTES", "30"))

UNTOUCHED, COMING_AND_GOING = 40, 80
"""Images that stay as they are, and others at the start."""

HITS = 30
SECONDS_TO_A_KILL = 3.0
"""On average."""

pytest.importorskip("watchfiles")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does"),
]


class Contents:
    """The embeddings that each file has had."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._had: dict[str, list[Vectors]] = {}
        self.untouched: dict[str, Vectors] = {}

    def of(self, file: Path) -> Vectors:
        """The embedding of what a file holds now, ``(DIM,)``."""
        pixels = decode(os.fsencode(file), self._preprocessing).pixels
        made: Vectors = NotedEncoder.__mro__[1](DIM).encode_images(pixels[np.newaxis])[0]
        return made

    def note(self, path: str, *vectors: Vectors) -> None:
        """Before a file gets these contents."""
        self._had.setdefault(path, []).extend(vectors)

    def had(self, path: str) -> list[Vectors]:
        return self._had.get(path, [])

    def wrong(self, text: str, scores: Mapping[str, float], *, rounding: float) -> list[str]:
        """What is wrong with the best hits of a text, path -> score, in words."""
        query = unit(text.encode(), DIM)
        found = [
            f"{path} never had a score of {score} for {text!r}"
            for path, score in scores.items()
            if not any(abs(float(own @ query) - score) < rounding for own in self.had(path))
        ]
        last = min(scores.values())
        return found + [
            f"{path} is missing, and better than {last} for {text!r}"
            for path, own in self.untouched.items()
            if float(own @ query) > last + rounding and path not in scores
        ]


class Churn:
    """Adds, changes, moves and deletes images; ``tally`` counts."""

    def __init__(self, root: Path, contents: Contents, tally: "Counter[str]") -> None:
        self._root, self._contents, self._tally = root, contents, tally
        self._beside = root.parent / "being written"
        self._chance = random.Random(0)
        self._seed = 10_000

    def once(self) -> None:
        mine = [path for path in self._root.rglob("*.*") if self._may_touch(path)]
        chosen = self._chance.choice(mine)
        what = self._chance.choices(
            ["added", "changed", "moved", "deleted", "moved with their folder"], [4, 2, 2, 2, 0.3]
        )[0]
        match what:
            case "added":
                suffix = self._chance.choice([".png", ".jpg", ".bmp"])
                self.write(chosen.parent / f"{self._seed}{suffix}")
            case "changed":
                self.write(chosen)
            case "moved":
                self._move(chosen, self._root / f"moved {self._seed}{chosen.suffix}")
            case "deleted" if len(mine) > COMING_AND_GOING // 2:
                chosen.unlink()
            case "moved with their folder":
                folders = [path for path in self._root.glob("folder*") if path.is_dir()]
                self._move(self._chance.choice(folders), self._root / f"folder {self._seed}")
            case _:
                return
        self._seed += 1
        self._tally[f"images {what}"] += 1

    def write(self, path: Path) -> None:
        """Put a new image there: as one step, or slowly, as a copy comes from a camera."""
        self._seed += 1
        whole = self._beside.with_suffix(path.suffix)
        make_picture(whole, self._seed)
        self._contents.note(self._name(path), self._contents.of(whole))
        if self._chance.random() < 0.5:
            whole.replace(path)
            return
        data = whole.read_bytes()
        with path.open("wb") as file:
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                file.write(part)
                file.flush()
                time.sleep(0.05)

    def _move(self, source: Path, target: Path) -> None:
        files = [path for path in source.rglob("*") if path.is_file()] or [source]
        for file in files:
            had = self._contents.had(self._name(file))
            self._contents.note(self._name(target / file.relative_to(source)), *had)
        source.rename(target)

    def _may_touch(self, path: Path) -> bool:
        parts = path.relative_to(self._root).parts
        return path.is_file() and parts[0] not in (FOLDER, "untouched")

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


class Programs:
    """All programs that run, what they said, and who kills them."""

    def __init__(self, root: Path, tally: "Counter[str]") -> None:
        self.root, self.tally = root, tally
        self.stop = threading.Event()
        self.wrong: list[str] = []
        self._said = root.parent / "said"
        self._said.mkdir()
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._killed: set[int] = set()
        self._groups: list[int] = []

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[str]":
        with (self._said / f"{name} {len(self._groups):06}").open("w") as said:
            process = subprocess.Popen(
                [sys.executable, HERE / "hashing_program.py", *arguments],
                cwd=self.root,
                env={**os.environ, "EMBEDDED": os.fspath(self.root.parent / "embedded")},
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,
            )
        process.said = Path(said.name)  # type: ignore[attr-defined]
        with self._lock:
            self._running[name] = process
            self._groups.append(process.pid)
        return process

    def ended(self, name: str, process: "subprocess.Popen[str]") -> bool:
        """Look at how a program ended; whether it ended by itself, and well."""
        with self._lock:
            self._running.pop(name, None)
            killed = process.pid in self._killed
        said: Path = process.said  # type: ignore[attr-defined]
        text = said.read_text(errors="replace")
        # Python's own words where a process is killed while it starts another are no fault of ours.
        faulty = "Traceback" in text and (not killed or "/clipsearch/" in text)
        if faulty or "This is a bug" in text or (process.returncode and not killed):
            self.wrong.append(f"{name} ended with {process.returncode}: {text}")
        else:
            said.unlink()
        return not killed and process.returncode == 0

    def kill_some(self) -> None:
        """Kill one after the other, half of them with all that they started."""
        chance = random.Random(1)
        while not self.stop.wait(chance.expovariate(1 / SECONDS_TO_A_KILL)):
            with self._lock:
                alive = [name for name, one in self._running.items() if one.poll() is None]
                # Whoever runs for seconds is killed as often as who runs for long.
                name = chance.choice(sorted(alive)) if alive else None
                if name is not None:
                    self._kill(name, whole=chance.random() < 0.5)

    def _kill(self, name: str, *, whole: bool) -> None:
        process = self._running[name]
        self._killed.add(process.pid)
        if whole:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        self.tally[f"kills of {name.rstrip('0123456789 ')}"] += 1

    def end(self) -> None:
        """Have nothing run any more, and see that nobody has left a process behind."""
        with self._lock:
            for name in [name for name, one in self._running.items() if one.poll() is None]:
                self._killed.add(self._running[name].pid)
                self._running[name].kill()

    def left_behind(self) -> list[int]:
        """Groups that still have a process, some seconds after their leader ended."""
        until = time.monotonic() + 20
        while (alive := list(filter(_exists, self._groups))) and time.monotonic() < until:
            time.sleep(0.2)
        return alive


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def write_again_and_again(programs: Programs, name: str) -> None:
    while not programs.stop.wait(0.5):
        process = programs.start(name, "index", ".", "--wait")
        process.communicate()
        if programs.ended(name, process):
            programs.tally["index runs that ended by themselves"] += 1


def search_again_and_again(programs: Programs, name: str, contents: Contents) -> None:
    chance = random.Random(name)
    while not programs.stop.wait(1):
        text = chance.choice(["snow", "a red bicycle", "two dogs on a beach", "a cat"])
        process = programs.start(
            name, "search", text, "--all", "--allow-out-of-domain", f"-k{HITS}", "--json"
        )
        out, _ = process.communicate()
        if programs.ended(name, process):
            hits = [json.loads(line) for line in out.splitlines()]
            scores = {hit["path"]: hit["score"] for hit in hits}
            look_at(programs, contents, text, list(scores.values()), scores, rounding=2e-3)
            programs.tally["searches that were compared with the files"] += 1


def browse_again_and_again(programs: Programs, name: str, contents: Contents) -> None:
    while not programs.stop.is_set():
        process = programs.start(name, "browse")
        said: Path = process.said  # type: ignore[attr-defined]
        while process.poll() is None and not programs.stop.wait(0.5):
            if url := re.search(r"http://\S+", said.read_text()):
                ask_a_page(programs, contents, url[0], process)
        process.communicate()
        programs.ended(name, process)


def ask_a_page(
    programs: Programs, contents: Contents, url: str, process: "subprocess.Popen[str]"
) -> None:
    text = random.choice(["snow", "a white horse"])
    address = f"{url}hits?q={text.replace(' ', '+')}&all=on&outside=on&k={HITS}"
    try:
        with urllib.request.urlopen(address, timeout=60) as reply:
            page = reply.read().decode()
    except (OSError, http.client.HTTPException) as error:
        try:
            process.wait(5)  # it was killed
        except subprocess.TimeoutExpired:
            programs.wrong.append(f"browse answered {error!r}")
        return
    cards = re.findall(r'data-path="([^"]*)".*?class="score"[^>]*>([-0-9.]+)<', page)
    prefix = f"{programs.root}/"
    scores = {html.unescape(path).removeprefix(prefix): float(score) for path, score in cards}
    look_at(programs, contents, text, [float(score) for _, score in cards], scores, rounding=3e-3)
    programs.tally["pages of browse that were compared with the files"] += 1


def look_at(
    programs: Programs,
    contents: Contents,
    text: str,
    listed: list[float],
    scores: dict[str, float],
    *,
    rounding: float,
) -> None:
    """Compare an answer with the files."""
    if len(scores) != HITS or listed != sorted(listed, reverse=True):
        programs.wrong.append(f"{len(scores)} hits, with scores of {listed}")
    else:
        programs.wrong += contents.wrong(text, scores, rounding=rounding)


def watch_again_and_again(programs: Programs, name: str) -> None:
    while not programs.stop.wait(0.5):
        process = programs.start(name, "watch", ".")
        process.communicate()
        programs.ended(name, process)


def catalog_of(directory: Path) -> dict[bytes, tuple[bool, bytes]]:
    """Path -> whether it failed, and its embedding."""
    with Store.open(directory) as store:
        return {
            path: (known.failed, b"" if known.failed else store.vector(known.id).tobytes())
            for path, known in store.known().items()
        }


def test_everything_at_once(
    tmp_path: Path, tiny_files: ModelFiles, tiny_model: Path, tally: "Counter[str]"
) -> None:
    root = tmp_path / "photos"
    contents = Contents(tiny_files.spec.preprocessing)
    churn = Churn(root, contents, tally)
    for folder in ("untouched", "folder 1", "folder 2"):
        (root / folder).mkdir(parents=True)
    for n in range(UNTOUCHED):
        churn.write(root / "untouched" / f"{n}.png")
        contents.untouched[f"untouched/{n}.png"] = contents.had(f"untouched/{n}.png")[0]
    for n in range(COMING_AND_GOING):
        churn.write(root / ("", "folder 1", "folder 2")[n % 3] / f"{n}.png")
    programs = Programs(root, tally)
    first = programs.start("first", "index", ".", "--model", os.fspath(tiny_model))
    first.communicate()
    assert programs.ended("first", first), programs.wrong
    work: list[Callable[[], None]] = [
        lambda: write_again_and_again(programs, "writer 1"),
        lambda: write_again_and_again(programs, "writer 2"),
        *(
            lambda name=f"searcher {n}": search_again_and_again(programs, name, contents)
            for n in (1, 2, 3)
        ),
        lambda: watch_again_and_again(programs, "watch"),
        lambda: browse_again_and_again(programs, "browse", contents),
        programs.kill_some,
    ]
    failed: list[BaseException] = []

    def guarded(do: Callable[[], None]) -> None:
        try:
            do()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=(do,)) for do in work]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60 * MINUTES
    try:
        while time.monotonic() < until and not failed:
            churn.once()
            time.sleep(0.2)
    finally:
        programs.stop.set()
        while any(thread.is_alive() for thread in threads):
            programs.end()
            threads[0].join(0.2)
            for thread in threads:
                thread.join(0.2)
    assert failed == []
    assert programs.wrong == []
    assert programs.left_behind() == []

    for name, more in (("last", ()), ("afresh", ("--index", "../afresh"))):
        model = ("--model", os.fspath(tiny_model)) if more else ()
        process = programs.start(name, "index", ".", *more, *model)
        process.communicate()
        assert programs.ended(name, process), programs.wrong
    found = scan.find(os.fsencode(root))
    whole = catalog_of(root / FOLDER)
    assert set(whole) == {file.path for file in found.files}
    assert whole == catalog_of(tmp_path / "afresh")
    with Store.open(root / FOLDER) as store:
        encoder = NotedEncoder.__mro__[1](DIM)
        assert list(verify.verify(store, found, lambda: encoder, len(whole))) == []
    leftover = {path.name for path in (root / FOLDER).iterdir()}
    assert leftover <= {"catalog.sqlite3", "vectors.faiss", "writer.lock"}
    shutil.rmtree(root)
