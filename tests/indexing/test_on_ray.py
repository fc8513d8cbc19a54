"""Embedding on a cluster of several nodes, all of them on this machine: what holds there as here.

The nodes are processes of their own, which are killed as a machine would go down.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from archives import samples, write_tar
from conftest import ROOT, Run, make_picture

from clipsearch.vectors import l2_normalise

pytest.importorskip("ray")

BATCH = 16

PROGRAM = ROOT / "tests" / "ray_program.py"

KILLER = """
import builtins, os
real = builtins.open
def open(file, *rest, **named):
    if os.fsdecode(file).endswith("killer.png") if isinstance(file, (str, bytes)) else False:
        os._exit(7)
    return real(file, *rest, **named)
builtins.open = open
"""
"""As ``sitecustomize`` of a node: opening that image ends the process, as a bug in a decoder."""


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand small images."""
    root = tmp_path_factory.mktemp("pictures") / "photos"
    root.mkdir()
    for n in range(1000):
        make_picture(root / f"{n:04d}.png", seed=n)
    return root


@dataclass
class Nodes:
    """A cluster that this test made."""

    cluster: Any
    added: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self, name: str) -> Any:
        node = self.cluster.add_node(
            num_cpus=2, object_store_memory=200 << 20, node_name=name, include_dashboard=False
        )
        self.added.append(node)
        return node

    def kill(self, node: Any) -> None:
        """As a machine goes down: with all of its processes at once."""
        pids = [info.process.pid for all_ in node.all_processes.values() for info in all_]
        family = [
            pid
            for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
            if _parent(pid) in pids
        ]
        for pid in [*pids, *family]:
            os.kill(pid, signal.SIGKILL)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Nodes]]:
    """Starts a cluster of so many nodes with 2 CPUs each."""
    from ray.cluster_utils import Cluster

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    made: list[Nodes] = []

    def start(count: int) -> Nodes:
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tmp_path / "site"))
            nodes = Nodes(Cluster(connect=False, shutdown_at_exit=False))
            made.append(nodes)
            for n in range(count):
                nodes.add(f"node-{n}")
        return nodes

    yield start
    for nodes in made:
        nodes.cluster.shutdown()


@dataclass
class Session:
    """Runs of the program over one folder, in an index of their own."""

    folder: Path
    index: Path
    model: Path
    notes: Path
    slowness: float = 0.0

    def command(self, address: str) -> list[str]:
        return [
            sys.executable,
            str(PROGRAM),
            "index",
            str(self.folder),
            "--index",
            str(self.index),
            "--model",
            str(self.model),
            "--ray",
            address,
        ]

    def begin(self, address: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.command(address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "NOTES": str(self.notes), "SLOWNESS": str(self.slowness)},
        )

    def run(self, address: str) -> str:
        """What it said, which is all that it said."""
        process = self.begin(address)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err.decode()
        assert out == b""
        return err.decode()

    @property
    def noted(self) -> "Counter[str]":
        """How often each image was embedded."""
        return Counter(self.notes.read_text().split()) if self.notes.exists() else Counter()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 600
        while self.noted.total() < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def rows(index: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(index / "catalog.sqlite3") as db:
        return db.execute(
            "SELECT path, size, mtime_ns, hash, width, height, taken_at, error FROM images "
            "ORDER BY path"
        ).fetchall()


def vectors(index: Path) -> "np.ndarray[Any, Any]":
    """In the order of the paths."""
    with sqlite3.connect(index / "catalog.sqlite3") as db:
        found = db.execute("SELECT vector FROM images JOIN vectors USING (id) ORDER BY path")
        return l2_normalise(np.stack([np.frombuffer(row[0], "<f2") for row in found]))


@pytest.fixture
def session(tmp_path: Path, collection: Path, tiny_model: Path, shared_cache: None) -> Session:
    return Session(collection, tmp_path / "index", tiny_model, tmp_path / "notes")


@pytest.fixture
def alone(tmp_path: Path, collection: Path, tiny_model: Path, run: Run) -> Path:
    """The index that one machine makes."""
    where = ("--index", tmp_path / "alone", "--model", tiny_model)
    assert run("index", collection, *where).code == 0
    return tmp_path / "alone"


def is_as(index: Path, alone: Path) -> None:
    assert rows(index) == rows(alone)
    assert (vectors(index) * vectors(alone)).sum(axis=1).min() >= 0.99999


@pytest.mark.slow
def test_a_node_that_goes_down_costs_its_batch_and_no_picture(
    session: Session, alone: Path, start: Callable[[int], Nodes], tally: "Counter[str]"
) -> None:
    nodes = start(3)
    session.slowness = 0.02
    process = session.begin(nodes.address)
    session.wait_for(300)
    nodes.kill(nodes.added[2])
    out, err = process.communicate(timeout=900)
    assert (process.returncode, out) == (0, b""), err.decode()
    assert "1,000 added" in err.decode()
    assert err.count(b"\n") == 2, err.decode()  # what was done, and that it is untested
    assert len(session.noted) == 1000
    twice = session.noted.total() - 1000
    assert twice <= BATCH
    tally["images embedded twice after a node of three went down"] += twice
    assert "1,000 unchanged" in session.run(nodes.address)
    assert session.noted.total() == 1000 + twice
    is_as(session.index, alone)


@pytest.mark.slow
def test_a_run_that_is_killed_is_taken_up(
    session: Session, alone: Path, start: Callable[[int], Nodes], tally: "Counter[str]"
) -> None:
    nodes = start(2)
    session.slowness = 0.01
    process = session.begin(nodes.address)
    session.wait_for(300)
    process.kill()
    process.communicate()
    kept = len(rows(session.index))
    assert 0 < kept < 1000
    session.slowness = 0
    assert f"{1000 - kept} added" in session.run(nodes.address)
    assert len(session.noted) == 1000
    twice = session.noted.total() - 1000
    # The two batches that each of the two workers had, and one that was on its way here.
    assert twice <= 5 * BATCH
    tally["images embedded twice after a run on two nodes was killed"] += twice
    is_as(session.index, alone)


@pytest.mark.slow
def test_archives_become_the_same_shards_as_on_one_machine(
    tmp_path: Path, tiny_model: Path, shared_cache: None, start: Callable[[int], Nodes], run: Run
) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    for shard in range(3):
        write_tar(tars / f"{shard:05d}.tar", samples(tars, range(100 * shard, 100 * shard + 40)))
    where = ("--model", tiny_model, "--npy")
    assert run("embed", tars, tmp_path / "alone", *where).code == 0
    nodes = start(2)
    command = [PROGRAM, "embed", tars, tmp_path / "out", *where, "--ray", nodes.address]
    env = {**os.environ, "NOTES": str(tmp_path / "notes"), "SLOWNESS": "0"}
    for said in ("3 shards finished, 0 finished before", "0 shards finished, 3 finished before"):
        done = subprocess.run(
            [sys.executable, *map(str, command)], capture_output=True, env=env, check=False
        )
        assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()
        assert said in done.stderr.decode()
    assert len((tmp_path / "notes").read_text().split()) == 120
    for number in range(3):
        told, embedded = (
            f"metadata/metadata_{number:05d}.jsonl",
            f"img_emb/img_emb_{number:05d}.npy",
        )
        assert (tmp_path / "out" / told).read_bytes() == (tmp_path / "alone" / told).read_bytes()
        here, there = (
            l2_normalise(np.load(tmp_path / out / embedded).astype(np.float32))
            for out in ("alone", "out")
        )
        assert (here * there).sum(axis=1).min() >= 0.99999


@pytest.mark.slow
def test_ctrl_c_ends_the_work_of_the_cluster(
    session: Session, start: Callable[[int], Nodes]
) -> None:
    nodes = start(1)
    session.slowness = 0.05
    process = session.begin(nodes.address)
    session.wait_for(100)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err.decode() == (
        "clipsearch: interrupted; finished work is kept, and the next run continues from there\n"
    )
    embedded = session.noted.total()
    time.sleep(3)
    assert session.noted.total() == embedded
    assert embedded - len(rows(session.index)) <= 3 * BATCH  # of one worker


@pytest.mark.slow
def test_a_picture_that_kills_its_decoder_is_named_and_not_tried_again(
    tmp_path: Path, session: Session, start: Callable[[int], Nodes]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n, name in enumerate(["a.png", "killer.png", "z.png"]):
        make_picture(folder / name, seed=n)
    (folder / "bad.jpg").write_text("this is no image")
    session.folder = folder
    nodes = start(1)
    assert "2 added" in (said := session.run(nodes.address))
    assert "killer.png: the decoder crashed on it (exit 7)" in said
    assert "bad.jpg: not an image" in said
    said = session.run(nodes.address)
    assert "added" not in said
    assert "2 unchanged" in said
    assert session.noted.total() == 2


@pytest.fixture
def blind_node(tmp_path: Path) -> Iterator[Callable[[str, Path], None]]:
    """Joins a node to a cluster that sees nothing in a folder."""
    apart = ["unshare", "--mount", "--kill-child", "--fork"]
    if subprocess.run([*apart, "true"], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs a mount namespace of its own")
    started: list[subprocess.Popen[bytes]] = []

    def join(address: str, folder: Path) -> None:
        ray = f"{sys.executable} -c 'from ray.scripts.scripts import main; main()'"
        command = f"mount -t tmpfs none {folder} && {ray} start --address={address} --num-cpus=2 "
        command += "--node-name=blind --object-store-memory=100000000 --block"
        started.append(
            subprocess.Popen(
                [*apart, "sh", "-c", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        assert started[0].stdout
        for line in started[0].stdout:
            if b"Ray runtime started" in line:
                return
        pytest.fail("the node did not start")

    yield join
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)  # Ray ends what belongs to the node
        process.communicate(timeout=60)


@pytest.mark.slow
def test_a_node_that_does_not_see_the_folder_is_named(
    session: Session,
    start: Callable[[int], Nodes],
    blind_node: Callable[[str, Path], None],
) -> None:
    nodes = start(1)
    blind_node(nodes.address, session.folder)
    process = session.begin(nodes.address)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, b"")
    first, hint = err.decode().splitlines()
    assert first.startswith("clipsearch: error: node blind (")
    assert f"does not see the same folder {session.folder}" in first
    assert "Mount the folder" in hint
    assert not session.noted


@pytest.mark.slow
def test_weights_are_sent_to_a_node_that_lacks_them(
    tmp_path: Path,
    session: Session,
    start: Callable[[int], Nodes],
    blind_node: Callable[[str, Path], None],
) -> None:
    session.folder = tmp_path / "photos"
    session.folder.mkdir()
    for n in range(100):
        make_picture(session.folder / f"{n}.png", seed=n)
    nodes = start(1)
    blind_node(nodes.address, session.model)
    assert "100 added" in session.run(nodes.address)
    (sent,) = (Path(os.environ["CLIPSEARCH_CACHE_DIR"]) / "weights").iterdir()
    original = session.model / "open_clip_model.safetensors"
    assert sent.read_bytes() == original.read_bytes()


@pytest.mark.process
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "there is no Ray cluster at 127.0.0.1:1: "),
        ("127.0.0.1:{http}", "another kind of server listens there"),
        ("ray://127.0.0.1:10001", "is not the address of a Ray cluster"),
        ("head", "is not the address of a Ray cluster"),
    ],
)
def test_a_wrong_address_is_named(
    address: str, message: str, run: Run, photos: Path, tiny_model: Path
) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        address = address.format(http=server.server_port)
        ran = run("index", photos, "--model", tiny_model, "--ray", address)
    assert (ran.code, ran.out) == (2, b"")
    assert message in ran.err
    assert not (photos / ".clipsearch").exists()


@pytest.mark.process
@pytest.mark.parametrize(
    ("ray_version", "python_version"), [("2.40.0", "{ours}"), ("{ours}", "3.9.1")]
)
def test_another_version_on_the_cluster_is_named(ray_version: str, python_version: str) -> None:
    from ray._private.utils import check_version_info, compute_version_info

    from clipsearch.indexing import on_ray

    ours = compute_version_info()
    theirs = (ray_version.format(ours=ours[0]), python_version.format(ours=ours[1]))
    cluster = dict(zip(("ray_version", "python_version"), theirs, strict=True))
    with pytest.raises(RuntimeError, match="Version mismatch") as raised:
        check_version_info(cluster, "here")
    error = on_ray._no_cluster("head:6379", raised.value)
    assert str(error) == (
        f"the cluster at head:6379 runs Ray {theirs[0]} with Python {theirs[1]}, "
        f"but this machine runs Ray {ours[0]} with Python {ours[1]}"
    )
