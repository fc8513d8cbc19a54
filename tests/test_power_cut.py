"""Every state that a power cut can leave: nothing that was committed is lost, nothing is wrong.

Runs of the program are recorded, and from each record the disks are made that a file system may
hold afterwards (see ``power_cut``). On each of them the index is opened, searched, verified and
brought up to date. Its catalog must be, to the last row, that of the last commit that returned, or
that of the one that was under way; each answer must be what numpy finds in that catalog; and the
next run must come to where a run without a cut comes.

All prefixes are tried, and of the other states ``CLIPSEARCH_POWER_CUTS`` for each prefix. The
quick run tries one in thirteen, prefixes and others alike.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import power_cut
import pytest
from conftest import ROOT, make_picture
from fakes import assert_exact, unit
from power_cut import Disk, Mark, Operation, State
from recorded_program import ACTIONS, DIM, encoders, model_that_is_a_hash

from clipsearch.errors import IndexNotFound
from clipsearch.images import scan
from clipsearch.indexing import verify
from clipsearch.indexing.transfer.export import export
from clipsearch.records import EVERYTHING, Vectors
from clipsearch.search.answer import answer
from clipsearch.search.query import Query, SearchOptions, Text
from clipsearch.storage import known
from clipsearch.storage.catalog import FOLDER, REBUILD, Store
from clipsearch.storage.collection import Collection

HERE = Path(__file__).parent
SEED = 2014
MOST = int(os.environ.get("CLIPSEARCH_POWER_CUTS", "4"))
PICTURES = 14

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the recorder needs Linux"),
]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorder, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the recorder needs a C compiler")
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "recorder.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for one record and its disks, in memory where there is such a file system."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


# -- what is recorded ------------------------------------------------------------------------------


def pictures(place: Path) -> None:
    """A folder of images, of which two are the same and one is none; another is remembered."""
    photos = place / "disk" / "photos"
    (photos / "sub").mkdir(parents=True)
    for n in range(PICTURES):
        make_picture(photos / ("sub" if n % 3 else ".") / f"{n:02}.png", n, (16, 16))
    shutil.copy(photos / "00.png", photos / "sub" / "copy.png")
    (photos / "broken.png").write_bytes(b"no picture")
    other = place / "disk" / "other"
    other.mkdir()
    (other / "catalog.sqlite3").write_bytes(b"enough to be there")
    known.remember(other, place / "disk" / "others")


def indexed(place: Path) -> None:
    pictures(place)
    ACTIONS["index"](place)


def changed(place: Path) -> None:
    indexed(place)
    photos = place / "disk" / "photos"
    for n in range(20, 25):
        make_picture(photos / f"{n}.png", n, (16, 16))
    make_picture(photos / "sub" / "01.png", 101, (24, 16))
    (photos / "03.png").rename(photos / "sub" / "moved.png")
    (photos / "06.png").unlink()


def earlier(place: Path) -> None:
    """An index of an earlier version, and a new image."""
    photos = shutil.copytree(ROOT / "tests/data/earlier_index", place / "disk" / "photos")
    (photos / "index").rename(photos / FOLDER)
    make_picture(photos / "new.png", 1, (16, 16))


def exported(place: Path) -> None:
    """Images, and beside them the embeddings of all but one."""
    indexed(place)
    photos = place / "disk" / "photos"
    with Store.open(photos / FOLDER) as store:
        export(store, place / "export", "parquet", EVERYTHING, lambda *_: None)
    shutil.rmtree(photos / FOLDER)
    make_picture(photos / "new.png", 50, (16, 16))


SCENARIOS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a first run": (pictures, "index"),
    "an update": (changed, "index"),
    "a rebuild": (changed, "rebuild"),
    "a migration": (earlier, "index"),
    "an import": (exported, "import"),
}
"""What was there before, and what is recorded."""


@dataclass(frozen=True)
class Record:
    """What one run did to the disk."""

    place: Path
    before: Disk
    operations: list[Operation]

    @property
    def photos(self) -> Path:
        return self.place / "disk" / "photos"

    def upto(self, count: int) -> Disk:
        """The disk after so many operations, and no cut."""
        return self.before.copy().apply(
            done
            for done in self.operations[:count]
            if not isinstance(done, power_cut.SyncFile | power_cut.SyncFolder | Mark)
        )


def record(place: Path, recorder: Path, action: str) -> Record:
    disk = place / "disk"
    before, numbers = Disk.of(disk)
    done = subprocess.run(
        [sys.executable, HERE / "recorded_program.py", action, place, place / "record"],
        env={
            **os.environ,
            "LD_PRELOAD": os.fspath(recorder),
            "RECORD_IN": os.fspath(disk),
            "RECORD_TO": os.fspath(place / "record"),
        },
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = Record(place, before, power_cut.read(place / "record", disk, before, numbers))
    # Nothing was missed: what is replayed is what lies there now.
    assert found.upto(len(found.operations)).reachable() == Disk.of(disk)[0].reachable()
    return found


# -- what must hold --------------------------------------------------------------------------------


def dump(directory: Path) -> tuple[Any, ...] | None:
    """All that a catalog holds; None if there is none. The program is the first to open it."""
    try:
        Store.open(directory).close()
    except IndexNotFound:
        return None
    with closing(sqlite3.connect(directory / "catalog.sqlite3")) as catalog:
        assert catalog.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return (catalog.execute("PRAGMA user_version").fetchone(), *catalog.iterdump())


def kept(photos: Path) -> dict[str, Any]:
    """What must outlast a cut: the catalog, that of an unfinished rebuild, the list of indexes."""
    return {
        "catalog": dump(photos / FOLDER),
        "rebuild": dump(photos / FOLDER / REBUILD),
        "list": known.remembered(),
    }


def vectors(directory: Path) -> dict[bytes, Vectors]:
    """Path -> vector of the good images, by SQLite alone."""
    with closing(sqlite3.connect(directory / "catalog.sqlite3")) as catalog:
        rows = catalog.execute("SELECT path, vector FROM images JOIN vectors USING (id)").fetchall()
    return {path: np.frombuffer(vector, "<f2").astype(np.float32) for path, vector in rows}


def outcome(photos: Path) -> dict[str, Any]:
    """What an index has come to, whatever ids it took on the way."""
    with closing(sqlite3.connect(photos / FOLDER / "catalog.sqlite3")) as catalog:
        rows = catalog.execute(
            "SELECT path, size, mtime_ns, hash, width, height, taken_at, error, camera, latitude,"
            " longitude, vector FROM images LEFT JOIN vectors USING (id) ORDER BY path"
        ).fetchall()
        texts = dict(catalog.execute("SELECT name, value FROM attachments").fetchall())
    calibration = json.loads(texts.pop("calibration"))
    scores = {kind: sorted(calibration[kind]) for kind in ("text", "image")}
    scale = texts.pop("scale", None)
    return {"rows": rows, "attached": texts, "scores": scores, "scaled": scale is not None}


def check_search(photos: Path) -> None:
    """Every answer is what numpy finds in the catalog as it is."""
    own = vectors(photos / FOLDER)
    encoder = encoders()
    with Store.open(photos / FOLDER) as store:
        for seed in range(2):
            query = unit(seed, DIM)
            for k in (1, 5, len(own) + 5):
                assert_exact(store.search(query, k), own, query, k)
        if own:
            options = SearchOptions(k=5, all=True, allow_out_of_domain=True)
            found = answer([Collection(store)], Query((Text("a kite"),)), options, encoder)
            query = encoder.text.encode_texts(["a kite"])[0]
            assert_exact(found.hits, own, query, 5)


def problems(photos: Path, *, among: set[str]) -> list[verify.Problem]:
    """What ``verify`` finds, less kinds that may be found."""
    with Store.open(photos / FOLDER) as store:
        found = verify.verify(
            store, scan.find(os.fsencode(photos)), lambda: encoders().both, PICTURES
        )
        return [problem for problem in found if problem.kind not in among]


class Explorer:
    """Tries the states of one record; what is wrong is gathered, not raised."""

    def __init__(self, found: Record, action: str, tally: "Counter[str]") -> None:
        self._record, self._tally = found, tally
        self._action = ACTIONS[action]
        self._photos = found.photos
        self._disk = found.place / "disk"
        self._tried = set[tuple[bytes, int]]()
        marks = [n + 1 for n, done in enumerate(found.operations) if isinstance(done, Mark)]
        self._marks = [0, *marks, len(found.operations)]
        self._acknowledged = [self._at(count, lambda: kept(self._photos)) for count in self._marks]
        self._expected = self._at(len(found.operations), self._finished)
        self.wrong = Counter[str]()
        self.examples: list[str] = []

    def _at(self, count: int, look: Callable[[], Any]) -> Any:
        self._record.upto(count).write_to(self._disk)
        return look()

    def _finished(self) -> dict[str, Any]:
        for action in dict.fromkeys((self._action, ACTIONS["index"])):  # an import leaves some
            action(self._record.place)
        return outcome(self._photos)

    def _marks_before(self, cut: int) -> int:
        return max(n for n, count in enumerate(self._marks) if count <= cut)

    def legal(self, cut: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the last mark before a cut says, and what the next would have said."""
        last = self._marks_before(cut)
        return self._acknowledged[last], self._acknowledged[min(last + 1, len(self._marks) - 1)]

    def explore(self, states: list[State]) -> None:
        for state in states:
            disk = self._record.before.copy().apply(state.changes)
            identity = (power_cut.digest(disk), self._marks_before(state.cut))
            if identity in self._tried:
                continue
            self._tried.add(identity)
            self._tally["disks after a power cut"] += 1
            self._tally["of these, a prefix of what was done"] += state.lost == "nothing"
            disk.write_to(self._disk)
            for step, look in self._steps(state):
                try:
                    look()
                except Exception as error:
                    self.wrong[step] += 1
                    after = self._record.operations[state.cut - 1] if state.cut else None
                    self.examples.append(
                        f"{step}: cut after {state.cut} ({repr(after)[:90]}), lost {state.lost}: "
                        f"{type(error).__name__}: {str(error)[:300]}"
                    )

    def _steps(self, state: State) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "lost", lambda: self._nothing_is_lost(state)
        if Store.exists(self._photos / FOLDER) and dump(self._photos / FOLDER):
            yield "answered wrongly", lambda: check_search(self._photos)
            derived = {"behind", "vector file"}
            yield "verified", lambda: self._nothing(problems(self._photos, among=derived))
        yield "updated", self._next_run_completes
        yield "answered wrongly afterwards", lambda: check_search(self._photos)
        yield "verified afterwards", lambda: self._nothing(problems(self._photos, among=set()))

    @staticmethod
    def _nothing(found: list[verify.Problem]) -> None:
        assert found == []

    def _nothing_is_lost(self, state: State) -> None:
        there, legal = kept(self._photos), self.legal(state.cut)
        for what, content in there.items():
            assert content in [one[what] for one in legal], f"the {what} is another"

    def _next_run_completes(self) -> None:
        assert self._finished() == self._expected
        leftover = {path.name for path in (self._photos / FOLDER).iterdir()}
        assert leftover <= {"catalog.sqlite3", "vectors.faiss", "writer.lock"}


@pytest.mark.parametrize(
    "every", [pytest.param(13, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_power_cut(
    place: Path,
    recorder: Path,
    scenario: str,
    every: int,
    tally: "Counter[str]",
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv("CLIPSEARCH_DATA_DIR", str(place / "disk" / "data"))
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    prepare, action = SCENARIOS[scenario]
    started = time.process_time()
    with model_that_is_a_hash():
        prepare(place)
        found = record(place, recorder, action)
        explorer = Explorer(found, action, tally)
        chance = random.Random(SEED)
        settled = power_cut.settled_at(found.operations)
        listed = [
            state
            for cut in range(len(found.operations) + 1)
            for state in power_cut.states(
                found.before, found.operations, settled, cut, chance, MOST
            )
        ]
        explorer.explore(listed[::every])
    tally["seconds of CPU"] += round(time.process_time() - started)
    assert not explorer.wrong, "\n".join([f"seed {SEED}", str(explorer.wrong), *explorer.examples])
