"""How index --ray scales, and what it costs against the pool of processes on the same machine.

    python tests/benchmarks/ray_scaling.py simulated [--workers 1 2 4 8 16] [--batch-size 16]
    python tests/benchmarks/ray_scaling.py machine FOLDER [--model NAME]

``simulated``: an embedding stage that takes 10 ms an image, on a cluster of this machine's
processes. Nothing is decoded, pixels are few; all else is real: the walk's result is compared, rows
travel, batches are committed. Rates leave out the first fifth and the last tenth. The processor
time of this process, which alone holds the index, gives the most images per second that one index
can take, however large the cluster.

``machine``: FOLDER indexed with the local pool and with --ray, in turn; medians.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Ray's workers give way to all other programs; on a shared machine that would be measured instead.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (that is its name)

import numpy as np
from ray.cluster_utils import Cluster

from clipsearch.indexing import nodes, on_ray
from clipsearch.indexing.reconcile import reconcile
from clipsearch.models import registry, weights
from clipsearch.records import DecodedImage, Found, ImageFile, ModelFiles, ModelSpec, Preprocessing
from clipsearch.storage.catalog import Store

SECONDS_PER_PICTURE = 0.01
SIZE, DIM = 32, 512
WEIGHTS = registry.pocket_folder() / "open_clip_model.safetensors"
"""Every node has them; they are not loaded."""
SPEC = ModelSpec(
    "pocket",
    None,
    weights.sha256_of(WEIGHTS),
    {"embed_dim": DIM},
    Preprocessing((SIZE, SIZE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "f" * 64,
)


class NoDecoding(nodes.Decoding):
    """Pixels without a file."""

    def _outcome(self, file: ImageFile) -> DecodedImage:
        digest = hashlib.blake2b(file.path, digest_size=20).digest()
        return DecodedImage(np.zeros((SIZE, SIZE, 3), np.uint8), digest, SIZE, SIZE, None)


class Sleeper:
    """A model that takes its time, and no processor."""

    batch_size = 16

    def encode_images(self, pixels: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        time.sleep(SECONDS_PER_PICTURE * len(pixels))
        vectors = np.random.default_rng().standard_normal((len(pixels), DIM)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@contextmanager
def cluster(cpus: int) -> Iterator[str]:
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": cpus, "object_store_memory": 1 << 30},
        shutdown_at_exit=False,
    )
    try:
        yield made.address
    finally:
        made.shutdown()


def simulated(workers: Sequence[int], pictures: int, batch_size: int) -> None:
    on_ray.Decoding = NoDecoding  # type: ignore[misc]
    first = 0.0
    for count in workers:
        rate, cpu = _rate(count, pictures * count // max(workers) + 400, batch_size)
        first = first or rate / count
        print(
            f"{count:>3} workers: {rate:7.1f} pictures/s, {rate / (first * count):.2f} of linear, "
            f"{rate * SECONDS_PER_PICTURE / count:.2f} of what they could; "
            f"{1e3 * cpu:.2f} ms of this process per image, so at most {1 / cpu:,.0f}/s",
            flush=True,
        )


def _rate(workers: int, pictures: int, batch_size: int) -> tuple[float, float]:
    """Images per second, and seconds of this process's processors per image."""
    files = [ImageFile(b"%08d.jpg" % n, 1000, 1) for n in range(pictures)]
    marks: list[tuple[int, float, float]] = []

    def progress(doing: str, done: int, total: int) -> None:
        if doing == "embedding" and total:
            marks.append((done, time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder, cluster(max(workers, 2)) as address:
        root = Path(folder) / "photos"
        root.mkdir()
        options = nodes.ClusterOptions(workers=workers, batch_size=batch_size)
        with (
            on_ray.connected(address, options, lambda *_: Sleeper()) as embed_with,
            Store.create(Path(folder) / "index", root, SPEC) as store,
        ):
            model = ModelFiles(SPEC, WEIGHTS)
            reconcile(store, Found(files), Sleeper, embed=embed_with(model), progress=progress)
            assert store.count() == pictures
    start = next(mark for mark in marks if mark[0] >= pictures * 0.2)
    end = next(mark for mark in marks if mark[0] >= pictures * 0.9)
    done = end[0] - start[0]
    return done / (end[1] - start[1]), (end[2] - start[2]) / done


def machine(folder: Path, model: str, rounds: int) -> None:
    with cluster(os.cpu_count() or 1) as address:
        runs: dict[str, list[tuple[float, float, float]]] = {"local": [], "--ray": []}
        for _ in range(rounds):
            for how, added in (("local", []), ("--ray", ["--ray", address])):
                runs[how].append(_indexed(folder, model, added))
    for how, figures in runs.items():
        whole, steady, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
        print(
            f"{how:>6}: {whole:.1f} pictures/s with start-up, {steady:.1f} without; "
            f"{1e3 * cpu:.1f} ms of processor per image, all processes"
        )


def _indexed(folder: Path, model: str, added: Sequence[str]) -> tuple[float, float, float]:
    """Images per second with start-up and without, and processor seconds per image."""
    with tempfile.TemporaryDirectory() as index:
        before, started = _processor_seconds(), time.perf_counter()
        command = [sys.executable, "-m", "clipsearch", "index", str(folder), "--index", index]
        process = subprocess.Popen([*command, "--model", model, *added], stderr=subprocess.DEVNULL)
        marks: list[tuple[int, float]] = []
        most = dict(before)
        while process.poll() is None:
            for pid, seconds in _processor_seconds().items():
                most[pid] = max(most.get(pid, 0), seconds)
            with suppress(Exception), Store.open(Path(index)) as store:
                marks.append((store.count(), time.perf_counter()))
            time.sleep(0.2)
        assert process.returncode == 0
        count = marks[-1][0]
        start = next(mark for mark in marks if mark[0] >= 0.1 * count)
        end = next(mark for mark in marks if mark[0] >= 0.95 * count)
        cpu = sum(seconds - before.get(pid, 0) for pid, seconds in most.items())
        return (
            count / (time.perf_counter() - started),
            (end[0] - start[0]) / (end[1] - start[1]),
            cpu / count,
        )


def _processor_seconds() -> dict[int, float]:
    """Of every process of this environment's Python and of Ray, but for this one."""
    ticks, found = os.sysconf("SC_CLK_TCK"), {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            line = Path(f"/proc/{entry}/cmdline").read_bytes()
            if int(entry) == os.getpid() or not any(
                word in line for word in (os.fsencode(sys.prefix), b"ray", b"clipsearch")
            ):
                continue
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            found[int(entry)] = (int(fields[11]) + int(fields[12])) / ticks
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("simulated")
    command.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    command.add_argument("--pictures", type=int, default=8000, help="with the most workers")
    command.add_argument("--batch-size", type=int, default=16)
    command = commands.add_parser("machine")
    command.add_argument("folder", type=Path)
    command.add_argument("--model", default="pocket")
    command.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.command == "simulated":
        simulated(given.workers, given.pictures, given.batch_size)
    else:
        machine(given.folder, given.model, given.rounds)
