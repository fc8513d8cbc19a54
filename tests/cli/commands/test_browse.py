"""``clipsearch browse``: it begins by saying where, and ends when it is told to."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import Run, make_picture, places_beside
from fakes import FakeEncoder, picture

from clipsearch.records import ModelFiles
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_files: ModelFiles) -> Path:
    """Three images, indexed without being looked at. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    (root / "sub").mkdir(parents=True)
    names = ["a.png", "b.jpg", "sub/c.png"]
    spec = tiny_files.spec
    with places_beside(root), Store.create(root / FOLDER, root, spec) as store:
        with store.batch():
            for seed, name in enumerate(names):
                make_picture(root / name, seed)
                store.add([picture(name.encode(), seed, dim=spec.dim)])
        collection.calibrate(store, lambda: FakeEncoder(spec.dim))
    return root


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted_and_ends_quietly(
    made: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "clipsearch", "browse", "sub"],
        cwd=made,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = [process.stderr.readline()]
    while lines[-1] and "http://" not in lines[-1]:
        lines.append(process.stderr.readline())
    url = lines[-1].split()[-1]
    with urllib.request.urlopen(f"{url}?q=a+cat&all=on", timeout=60) as reply:
        page = reply.read().decode()
    assert page.count('<figure class="hit') == 1  # the folder holds no more
    assert "sub/c.png" in page
    process.send_signal(number)
    lines += process.stderr.readlines()
    assert process.wait(60) == 130
    assert process.stdout is not None
    assert process.stdout.read() == ""
    process.stdout.close()
    process.stderr.close()
    times = [line for line in lines if line.startswith("import time:")]
    said = [line for line in lines if line not in times]
    assert said == [f"clipsearch: serving until Ctrl-C: {url}\n"]
    assert len(times) > 50
    assert not {"torch", "open_clip"} & {line.rsplit("|", 1)[1].strip() for line in times}


def test_a_port_in_use_is_an_error(run: Run, made: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("browse", "--port", str(port), cwd=made)
    assert (done.code, done.out) == (2, b"")
    assert done.err == (
        f"clipsearch: error: port {port} is in use\n"
        "  Use another port with --port N, or omit the option to use a free one.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none does not exist"),
        ([os.sep], "no indexed folder contains"),
        (["--port", "99999"], "99999"),
        (["--max-false-alarm", "2"], "is not a valid rate"),
    ],
)
def test_what_cannot_be_browsed_is_an_error(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run("browse", *arguments, cwd=tmp_path)
    assert (done.code, done.out) == (2, b"")
    assert message in done.err
