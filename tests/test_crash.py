"""Whatever ends a run, and whenever: what was committed is there, and the next run goes on.

As databases are tested: the program runs in a process of its own and is killed, at random moments
and at each call that changes the index; or a call fails, because the disk is full or broken. Then
the promises are looked at: every committed image is found by its own vector, no image has
another's, at most one batch is embedded twice, and the next run completes the work.
"""

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from hashing_program import DIM, NotedEncoder

from clipsearch.errors import IndexNotFound
from clipsearch.images import scan
from clipsearch.images.decode import decode
from clipsearch.indexing import verify as verifying
from clipsearch.records import ModelFiles, Vectors
from clipsearch.storage.catalog import FOLDER, Store

HERE = Path(__file__).parent
PICTURES = 26
BATCH = 4

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of images, two of which are the same and one of which is none."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for n in range(PICTURES - 2):
        make_picture(folder / ("sub" if n % 3 else ".") / f"{n:02}.png", seed=n)
    shutil.copy(folder / "00.png", folder / "sub" / "copy.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


class Program:
    """The program on one folder, with whatever is to go wrong."""

    def __init__(
        self, root: Path, files: ModelFiles, faults: Path | None, tally: "Counter[str]"
    ) -> None:
        self.root, self.files, self.tally = root, files, tally
        self.noted = root.parent / "embedded"
        self.faults = faults
        self.truth: dict[bytes, Vectors] = {}

    def start(self, **environment: str) -> "subprocess.Popen[bytes]":
        preload = {"LD_PRELOAD": str(self.faults)} if environment else {}
        return subprocess.Popen(
            [sys.executable, HERE / "hashing_program.py", "index", ".", *self.model()],
            cwd=self.root,
            env={**os.environ, **environment, **preload, "EMBEDDED": str(self.noted)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def model(self) -> list[str]:
        return ["--model", self.files.spec.name]

    def run(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        out, err = process.communicate(timeout=120)
        assert out == b""
        if environment.get("FAULT_HOW") == "kill":
            self.tally["kills survived"] += process.returncode == -signal.SIGKILL
        elif "FAULT_HOW" in environment:
            self.tally["runs with a failing disk survived"] += 1
        return process.returncode, err.decode()

    def embedded(self) -> int:
        """How many images were embedded, in all runs so far."""
        return sum(map(int, self.noted.read_text().split())) if self.noted.exists() else 0

    def expected(self, path: bytes) -> Vectors:
        if path not in self.truth:
            full = os.path.join(os.fsencode(self.root), path)
            pixels = decode(full, self.files.spec.preprocessing).pixels
            self.truth[path] = NotedEncoder.__mro__[1](DIM).encode_images(pixels[np.newaxis])[0]
        return self.truth[path]

    def check(self) -> int:
        """Look at the promises; how many images are committed."""
        directory = self.root / FOLDER
        try:
            opened = Store.open(directory)
        except IndexNotFound:  # killed before there was anything to lose
            return 0
        with opened as store:
            good = {path: known for path, known in store.known().items() if not known.failed}
            for path, known in good.items():
                own = self.expected(path)
                np.testing.assert_allclose(store.vector(known.id), own, atol=2e-3)
                assert path in {hit.path for hit in store.search(own, 2)}
            assert len(store.search(self.expected(b"00.png"), 1000)) == len(good)
        self.tally["committed images found by their own embedding, after a kill or fault"] += len(
            good
        )
        with sqlite3.connect(directory / "catalog.sqlite3") as catalog:
            assert catalog.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert catalog.execute("PRAGMA foreign_key_check").fetchone() is None
        return len(good)

    def finish(self, ended: int = 1) -> None:
        """The next run completes, and embeds what was not committed and nothing else.

        ended: how many runs came to a bad end before, each of which may have lost one batch.
        """
        committed = self.check()
        before = self.embedded()
        assert before - committed <= BATCH * ended
        code, said = self.run()
        assert code == 0, said
        assert "Traceback" not in said
        assert self.check() == PICTURES - 1
        # The copy of an image is embedded where both are new in one run, and reused otherwise.
        assert self.embedded() - before <= PICTURES - 1 - committed
        leftover = {path.name for path in (self.root / FOLDER).iterdir()}
        assert leftover <= {"catalog.sqlite3", "vectors.faiss", "writer.lock"}
        self.verify()

    def verify(self) -> None:
        """As ``clipsearch verify`` does it, every embedding made again."""
        encoder = NotedEncoder.__mro__[1](DIM)
        with Store.open(self.root / FOLDER) as store:
            found = scan.find(os.fsencode(self.root))
            assert list(verifying.verify(store, found, lambda: encoder, PICTURES)) == []

    def reset(self) -> None:
        shutil.rmtree(self.root / FOLDER, ignore_errors=True)
        self.noted.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The fault layer, compiled; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def program(
    root: Path, tiny_files: ModelFiles, faults: Path | None, tally: "Counter[str]"
) -> Program:
    return Program(root, tiny_files, faults, tally)


@pytest.fixture
def injected(program: Program) -> Program:
    """The program with the fault layer."""
    if program.faults is None:
        pytest.skip("the fault layer needs Linux and a C compiler")
    return program


def some(count: int, every: int) -> range:
    return range(1, count + 1, every)


def killed_at_some_moment(program: Program, chance: random.Random) -> bool:
    """Start a run, and end it when so many images are embedded, or a little later.

    False for one that was quicker.
    """
    wanted = program.embedded() + chance.randrange(PICTURES)
    process = program.start()
    try:
        while process.poll() is None and program.embedded() < wanted:
            time.sleep(0.002)
        process.wait(chance.expovariate(1 / 0.015))
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        program.tally["kills survived"] += 1
        return True
    finally:
        process.communicate()


@pytest.mark.parametrize(
    "kills", [6, pytest.param(200, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_a_run_that_is_killed_at_any_moment_is_gone_on_with(program: Program, kills: int) -> None:
    chance = random.Random(kills)
    survived_with: list[int] = []

    def in_the_middle() -> bool:
        return any(0 < committed < PICTURES - 1 for committed in survived_with)

    while len(survived_with) < kills or not in_the_middle():
        program.reset()
        ended = 0
        while killed_at_some_moment(program, chance):  # several in a row
            ended += 1
            survived_with.append(program.check())
            if chance.random() < 0.5:
                break
        program.finish(ended)


def calls(injected: Program, **environment: str) -> int:
    """How many calls a whole run makes that could go wrong."""
    count = injected.root.parent / "count"
    code, said = injected.run(FAULT_IN=FOLDER, FAULT_COUNT=str(count), **environment)
    assert code == 0, said
    return int(count.read_text())


@pytest.mark.parametrize(
    "every", [19, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "each"]
)
def test_a_run_that_is_killed_at_a_write_an_fsync_or_a_rename(
    injected: Program, every: int
) -> None:
    total = calls(injected)
    assert total > 80
    count = injected.root.parent / "count"
    tried = some(total, every)
    killed = 0
    for at in tried:
        injected.reset()
        code, said = injected.run(
            FAULT_IN=FOLDER, FAULT_AT=str(at), FAULT_HOW="kill", FAULT_COUNT=str(count)
        )
        if code == 0:  # how many calls a run makes depends on which image is decoded first
            assert int(count.read_text()) < at
        else:
            assert code == -signal.SIGKILL, said
            killed += 1
        injected.finish()
    assert killed >= 0.9 * len(tried)


@pytest.mark.parametrize(
    "every", [115, pytest.param(7, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("once", [False, True], ids=["from then on", "once"])
def test_a_disk_that_is_full_or_broken_costs_no_committed_picture(
    injected: Program, every: int, error: int, once: bool
) -> None:
    total = calls(injected)
    again = {"FAULT_ONCE": "1"} if once else {}
    failed = 0
    for at in some(total, every):
        injected.reset()
        code, said = injected.run(FAULT_IN=FOLDER, FAULT_AT=str(at), FAULT_HOW=str(error), **again)
        assert code in (0, 2), said
        assert "Traceback" not in said
        assert "This is a bug" not in said
        failed += code == 2
        injected.finish()
    assert failed > 0


def test_a_picture_that_cannot_be_read_is_named_and_tried_again(injected: Program) -> None:
    code, said = injected.run(
        FAULT_IN="photos/03.png", FAULT_ON="read", FAULT_AT="1", FAULT_HOW=str(errno.EIO)
    )
    assert code == 2
    assert "cannot read 03.png: Input/output error" in said
    assert injected.check() == PICTURES - 2
    injected.finish()


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_an_index_that_cannot_be_read_is_an_error_and_is_not_touched(
    injected: Program, every: int
) -> None:
    assert injected.run()[0] == 0
    total = calls(injected, FAULT_ON="read")
    for at in some(total, every):
        code, said = injected.run(
            FAULT_IN=FOLDER, FAULT_ON="read", FAULT_AT=str(at), FAULT_HOW=str(errno.EIO)
        )
        assert code in (0, 2), said
        assert "Traceback" not in said
        assert "This is a bug" not in said
    injected.finish()
