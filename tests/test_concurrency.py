"""Many at once: readers beside a writer, while files come, go and change their names."""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import make_picture
from fakes import FakeEncoder

from clipsearch.images import scan
from clipsearch.indexing import verify
from clipsearch.storage.catalog import FOLDER, Store

HERE = Path(__file__).parent
SECONDS = 8.0

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name == "nt", reason="renames files that are being read"),
]


def churn(root: Path, stop: threading.Event) -> None:
    """Add, rename, change and delete images for as long as it takes."""
    chance = random.Random(0)
    n = 1000
    while not stop.is_set():
        there = [path for path in root.rglob("*.png") if FOLDER not in path.parts]
        chosen = chance.choice(there)
        match chance.randrange(5):
            case 0 | 1:
                n += 1
                make_picture(root / chance.choice(["", "sub"]) / f"{n}.png", n)
            case 2:
                chosen.rename(chosen.with_name(f"renamed {n} {chosen.name[-20:]}"))
            case 3:
                make_picture(chosen, chance.randrange(10**6))
            case _ if len(there) > 20:
                chosen.unlink()
        time.sleep(0.15)


def test_readers_and_a_writer_while_files_come_and_go(tmp_path: Path, tiny_model: Path) -> None:
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for n in range(60):
        make_picture(root / f"{n}.png", n)

    def program(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, HERE / "hashing_program.py", *arguments],
            cwd=root,
            env={**os.environ, "EMBEDDED": str(tmp_path / "embedded")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    first = program("index", ".", "--model", str(tiny_model))
    assert first.returncode == 0, first.stderr
    stop = threading.Event()
    until = time.monotonic() + SECONDS
    answers: list[subprocess.CompletedProcess[str]] = []

    def ask() -> None:
        while time.monotonic() < until:
            answers.append(
                program("search", "snow", "--all", "--allow-out-of-domain", "-k", "30", "--json")
            )

    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads.append(threading.Thread(target=churn, args=(root, stop)))
    for thread in threads:
        thread.start()
    runs = []
    while time.monotonic() < until:
        runs.append(program("index", "."))
    stop.set()
    for thread in threads:
        thread.join()
    assert len(runs) >= 2
    assert len(answers) >= 4
    for done in [*runs, *answers]:
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    for done in answers:
        assert len(done.stdout.splitlines()) >= 15  # whole batches, and never none

    last = program("index", ".")
    assert last.returncode == 0, last.stderr
    found = scan.find(os.fsencode(root))
    with Store.open(root / FOLDER) as store:
        assert set(store.known()) == {file.path for file in found.files}
        assert list(verify.verify(store, found, lambda: FakeEncoder(32), 99)) == []


@pytest.mark.parametrize("options", [[], ["--wait"]])
def test_two_first_runs_at_once(tmp_path: Path, tiny_model: Path, options: list[str]) -> None:
    """Both make the index; one of them is first, and the other is told so or waits."""
    for number in range(3):
        root = tmp_path / f"photos {number}"
        root.mkdir()
        for n in range(8):
            make_picture(root / f"{n}.png", n)
        program = [sys.executable, HERE / "hashing_program.py", "index", ".", *options]
        runs = [
            subprocess.Popen(
                [*program, "--model", tiny_model],
                cwd=root,
                env={**os.environ, "EMBEDDED": str(tmp_path / "embedded")},
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        said = [run.communicate(timeout=120)[1] for run in runs]
        codes = sorted(run.returncode for run in runs)
        assert codes == [0, 0] or (codes == [0, 2] and not options), said
        for run, text in zip(runs, said, strict=True):
            assert run.returncode == 0 or "another clipsearch is writing to" in text
        with Store.open(root / FOLDER) as store:
            assert store.count() == 8
