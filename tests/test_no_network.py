"""No network, but to fetch a model that `index` was asked for: any other connection is refused.

Not by what our own modules call but by Python's audit events, which see every library's sockets.
"""

import os
import sys
from pathlib import Path

import pytest
from conftest import ASK, Ran, Run, make_picture, places_beside, run_here

GUARD = """
import os, sys

WATCHED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")

def refuse(event, arguments):
    if event not in WATCHED:
        return
    if event == "socket.connect" and not isinstance(arguments[1], tuple):
        return  # a socket of this machine
    with open(os.environ["CONNECTIONS"], "a", encoding="utf-8") as file:
        file.write(f"{event} {arguments[1:]}\\n")
    raise ConnectionRefusedError("no network here")

sys.addaudithook(refuse)
"""

LABELS = "path,label\n" + "".join(f"{n}.png,{('cat', 'dog')[n % 2]}\n" for n in range(6))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder."""
    root = tmp_path_factory.mktemp("made") / "photos"
    root.mkdir()
    for n in range(6):
        make_picture(root / f"{n}.png", n % 2, (48 + n, 40))  # so that a probe can learn them
    (root / "labels.csv").write_text(LABELS)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.fixture
def guarded(run_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program, nothing of which may use the network but what says so."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    paths = [os.fspath(tmp_path / "guard"), *filter(None, sys.path[1:])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("CONNECTIONS", os.fspath(tmp_path / "connections"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    return run_process


def connections(tmp_path: Path) -> str:
    noted = tmp_path / "connections"
    return noted.read_text() if noted.exists() else ""


ON_AN_INDEX = [
    [*ASK, "a red bicycle"],
    [*ASK, "--image", "1.png"],
    ["status"],
    ["models"],
    ["verify"],
    ["evaluate", "labels.csv"],
    ["classify"],
    ["probe", "train", "labels.csv", "--name", "pets"],
    ["domain", "show"],
    ["doctor"],
    ["export", "exported", "--npy"],
    ["index", "."],
]


@pytest.mark.parametrize("arguments", ON_AN_INDEX, ids=" ".join)
def test_with_an_index_nothing_needs_the_network(
    guarded: Run, made: Path, tmp_path: Path, arguments: list[str]
) -> None:
    done: Ran = guarded(*arguments, cwd=made)
    assert done.code in (0, 1), done.err
    assert connections(tmp_path) == ""


ASKING = ["index", ".", "--model", "hf-hub:someone/model"]


@pytest.mark.parametrize(
    ("options", "variables"),
    [(["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"})],
    ids=["--offline", "HF_HUB_OFFLINE=1"],
)
def test_a_new_model_is_not_fetched_where_that_is_forbidden(
    guarded: Run, photos: Path, tmp_path: Path, options: list[str], variables: dict[str, str]
) -> None:
    done = guarded(*ASKING, *options, cwd=photos, env=variables)
    assert (done.code, done.out) == (2, b"")
    assert "offline mode is on" in done.err
    assert connections(tmp_path) == ""


def test_without_being_forbidden_it_is_asked_for_and_noted(
    guarded: Run, photos: Path, tmp_path: Path
) -> None:
    """Otherwise the tests above would prove nothing."""
    done = guarded(*ASKING, cwd=photos)
    assert (done.code, done.out) == (2, b"")
    assert "cannot be downloaded from the hub" in done.err
    assert "socket." in connections(tmp_path)
