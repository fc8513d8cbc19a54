"""Turn images into embeddings on a Ray cluster: the counterpart of ``embed.embed_files``.

::

    here            paths, a batch at a time
    any CPU         tasks of ``Decoding``: files -> pixels of the model's size
    each worker     actors of ``Embedding``: pixels -> embeddings, with the model loaded once
    here            embeddings, committed as they come

Ray Data moves the rows between them and limits how many wait. If a worker or node dies, its batch
is lost before anything is committed, and is embedded again after the others.
Only this file imports ray.
"""

import logging
import os
import pickle
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clipsearch.errors import ClusterError, UsageError
from clipsearch.indexing.embed import EmbedFiles, LoadEncoder, Progress
from clipsearch.indexing.nodes import (
    RAY_STATUS,
    Batch,
    ClusterOptions,
    Decoding,
    Embedding,
    Failure,
    Fetch,
    LoadModel,
    answer,
    complaint,
    is_there,
    room_on,
)
from clipsearch.models.load import load_encoder
from clipsearch.records import ImageFile, ModelFiles, Preprocessing

_FILES_PER_ROW = 64
"""Images per transfer and per batch: 10 MB of pixels at 224 x 224."""

_ROWS_PER_TASK = 16
"""Upper limit; lower if a CPU would be idle. If a task dies, its rows are decoded again."""

_TASKS_PER_CPU = 8

_FILES_PER_ROUND = 1_000_000
"""Limited because the object store holds their paths; large because each round loads the model."""

_GPU_BATCH = 256
_CPU_BATCH = 16
_BATCHES_PER_WORKER = 2
"""One being embedded and one waiting, so that a worker is never idle. No more, because the
cluster may still embed them after this process is killed."""

_SAMPLE = 16
"""How many images each node is checked for."""

_HTTP2_SETTINGS = b"\4"
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0" + _HTTP2_SETTINGS + bytes(5)
"""The preface of RFC 9113 and an empty SETTINGS frame. A gRPC server replies with its own frame."""

_SECONDS_TO_CONNECT = 10
_SECONDS_TO_ANSWER = 120
_SECONDS_WITHOUT_PROGRESS = 1800

_VAIN_ROUNDS = 3
_SECONDS_TO_SETTLE = 10
"""Ray may place the next round's workers on a dead node before it notices the death."""


@contextmanager
def connected(
    address: str, options: ClusterOptions, load: LoadModel = load_encoder
) -> Iterator[Callable[[ModelFiles], EmbedFiles]]:
    """Connect to a cluster; yields a function that embeds files there with a given model.

    address: the cluster head (``HOST:PORT``), or ``auto`` for the cluster that this machine
    belongs to. On exit, all our work there is stopped. Raises ClusterError and UsageError.
    """
    _reach(address)
    terminate = signal.getsignal(signal.SIGTERM)
    _mute()
    try:
        with _nothing_said():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, and Ray's own
        ray.shutdown()
        raise _no_cluster(address, error) from error
    finally:
        signal.signal(signal.SIGTERM, terminate)  # Ray's handler would lose what is committed
    try:
        yield lambda files: partial(_Cluster(options, load).embed_files, files)
    finally:
        ray.shutdown()


class _Cluster:
    """Embeds files on the cluster that this process is connected to."""

    def __init__(self, options: ClusterOptions, load: LoadModel) -> None:
        self._options = options
        self._load = load

    def embed_files(
        self,
        model: ModelFiles,
        root: bytes,
        files: Sequence[ImageFile],
        preprocessing: Preprocessing,
        load_encoder: LoadEncoder,
        *,
        max_pixels: int | None = None,
        progress: Progress = lambda doing, done, total: None,
    ) -> Iterator[Batch]:
        """See ``embed.EmbedFiles``. ``load_encoder`` is for this machine, and is not called.

        Raises ClusterError if a node lacks something, or if its workers keep dying.
        """
        if not files:
            return
        progress("checking the cluster", 0, len(files))
        lacking = _ask_nodes(model, root, files)
        sent = partial(ray.get, ray.put(model.weights.read_bytes())) if lacking else None
        done = vain = 0
        left = list(files)
        while left:
            now, later = left[:_FILES_PER_ROUND], left[_FILES_PER_ROUND:]
            open_ = dict.fromkeys(now)
            progress("loading the model" if not done else "embedding", done, len(files))
            decode = Decoding(root, preprocessing, max_pixels)
            for batch in self._round(now, decode, model, sent):
                fresh = [(file, outcome) for file, outcome in batch if file in open_]
                for file, _ in fresh:
                    del open_[file]
                if fresh:
                    yield fresh
                done += len(fresh)
                progress("embedding", done, len(files))
            vain = vain + 1 if len(open_) == len(now) else 0
            if vain == _VAIN_ROUNDS:
                raise ClusterError(
                    f"the cluster lost its workers and embedded none of {len(now)} images",
                    hint="Check its dashboard or logs for the cause (out of memory?). "
                    "Finished embeddings are kept; run the command again to continue.",
                )
            if vain:
                time.sleep(_SECONDS_TO_SETTLE)
            left = [*open_, *later]

    def _round(
        self,
        files: Sequence[ImageFile],
        decode: "Decoding",
        model: ModelFiles,
        sent: Fetch | None,
    ) -> Iterator[Batch]:
        """Embed files once; files whose worker dies are missing from the result."""
        room = room_on([node["Resources"] for node in ray.nodes() if node["Alive"]], self._options)
        batch = self._options.batch_size or (_GPU_BATCH if room.gpus else _CPU_BATCH)
        step = min(_FILES_PER_ROW, batch)
        rows = [{"row": pickle.dumps(files[n : n + step])} for n in range(0, len(files), step)]
        cpus = int(ray.cluster_resources().get("CPU", 1))
        tasks = min(len(rows), max(_TASKS_PER_CPU * cpus, len(rows) // _ROWS_PER_TASK))
        device = self._options.device
        with warnings.catch_warnings():
            # `max_restarts` cannot be set elsewhere. A worker that waits for a restart, with no
            # living node that has room, would keep its batch and block the job.
            warnings.simplefilter("ignore")
            decoded = ray.data.from_items(rows, override_num_blocks=tasks).map_batches(
                decode, batch_size=1, batch_format="numpy", num_cpus=room.cpus_to_decode
            )
            embedded = decoded.map_batches(
                Embedding,
                fn_constructor_kwargs={
                    "model": model,
                    "sent": sent,
                    "device": "cpu" if device == "auto" and not room.gpus else device,
                    "batch_size": batch,
                    "threads": room.threads,
                    "load": self._load,
                },
                batch_size=-(-batch // step),
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(
                    min_size=1,
                    max_size=room.workers,
                    initial_size=room.workers,
                    max_tasks_in_flight_per_actor=_BATCHES_PER_WORKER,
                ),
                num_cpus=room.cpus,
                num_gpus=room.gpus,
                max_restarts=0,
                max_task_retries=0,
            )
            blocks = embedded.iter_batches(
                batch_size=None, prefetch_batches=0, batch_format="numpy"
            )
        try:
            for block in blocks:
                for row in block["row"]:
                    made = pickle.loads(row)
                    if isinstance(made, Failure):
                        raise ClusterError(made.message, hint=made.hint)
                    yield made
        except ray.exceptions.RayError:
            return  # a node died before its embeddings were fetched


def _ask_nodes(model: ModelFiles, root: bytes, files: Sequence[ImageFile]) -> list[str]:
    """Names of nodes that lack the weights. Raises ClusterError if they lack anything else."""
    step = -(-len(files) // _SAMPLE)
    sample = [file for file in files[::step] if is_there(root, file)]
    here = answer(model, root, sample)
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    # Nodes without CPUs, such as many heads, do no work.
    asked = {
        id: ray.remote(answer)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False))
        .remote(model, root, sample)
        for id, node in nodes.items()
        if node["Resources"].get("CPU")
    }
    lacking = []
    for id, reference in asked.items():
        name = _name(nodes[id])
        try:
            told = ray.get(reference, timeout=_SECONDS_TO_ANSWER)
        except Exception as error:  # anything that importing clipsearch raises, and Ray's own
            if any(node["NodeID"] == id and not node["Alive"] for node in ray.nodes()):
                continue  # it died in the meantime
            raise ClusterError(
                f"node {name} cannot run clipsearch: {_last_line(error)}",
                hint="Install the same packages there: pip install "
                f"'clipsearch[ray]=={here.versions[0]}'",
            ) from error
        wrong = complaint(name, root, told, here)
        if wrong is not None:
            raise wrong
        if not told.has_weights:
            lacking.append(name)
    return lacking


def _reach(address: str) -> None:
    """Raise if no gRPC server listens there: Ray would retry for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdecimal():
        raise UsageError(
            f"'{address}' is not the address of a Ray cluster",
            hint="Use HOST:PORT as `ray start --head` prints it (usually port 6379), or auto. "
            "Run clipsearch on a machine of the cluster.",
        )
    try:
        where = (host.strip("[]"), int(port))
        with socket.create_connection(where, _SECONDS_TO_CONNECT) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            connection.sendall(_HTTP2_GREETING)
            if connection.recv(9)[3:4] != _HTTP2_SETTINGS:
                raise OSError("another kind of server listens there")
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ClusterError:
    said = str(error)
    if "Version mismatch" in said:
        words = said.split()
        theirs, ours = (
            f"Ray {words[n + 1]} with Python {words[n + 3]}"
            for n, word in enumerate(words)
            if word == "Ray:"
        )
        return ClusterError(
            f"the cluster at {address} runs {theirs}, but this machine runs {ours}",
            hint="The versions must match on every machine of a cluster.",
        )
    if address == "auto":
        return ClusterError(
            f"this machine is not in a Ray cluster: {_last_line(error)}",
            hint="Start one with `ray start --head`, or give its address: --ray HOST:PORT",
        )
    return ClusterError(
        f"there is no Ray cluster at {address}: {_last_line(error)}", hint=RAY_STATUS
    )


def _name(node: dict[str, Any]) -> str:
    name, where = node.get("NodeName"), node["NodeManagerAddress"]
    return where if name in (None, "", where) else f"{name} ({where})"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _mute() -> None:
    """Keep Ray away from the terminal and our standard streams. It has its own logs."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
    # Ray prints deaths of workers and nodes on stdout and has no switch to turn that off.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # each row is sent as soon as it is made
    context.max_errored_blocks = -1  # blocks of dead workers: see `embed_files`
    context.execution_no_progress_timeout_s = _SECONDS_WITHOUT_PROGRESS


@contextmanager
def _nothing_said() -> Iterator[None]:
    """Redirect stderr to nowhere: Ray's C++ core writes there even when told to be quiet."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
