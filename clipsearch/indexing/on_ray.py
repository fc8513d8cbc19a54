"""Images to embeddings on a Ray cluster: what ``embed.embed_files`` is on one machine.

::

    here            paths, a batch at a time
    any CPU         tasks of ``Decoding``: files -> pixels of the model's size
    each worker     actors of ``Embedding``: pixels -> embeddings, with the model loaded once
    here            embeddings, committed as they come

Ray Data moves the rows between them, and bounds how many wait. A worker or a node that dies takes
its batch along: nothing of it was committed, and it is embedded again when the others are done.
This is the one file that imports ray.
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
"""What crosses the network at once, or one batch: 10 MB of pixels at 224 x 224."""

_ROWS_PER_TASK = 16
"""At most; fewer where that leaves a CPU without work. A task that dies is decoded again."""

_TASKS_PER_CPU = 8

_FILES_PER_ROUND = 1_000_000
"""Their paths lie in the object store, and every round loads the model: minutes against hours."""

_GPU_BATCH = 256
_CPU_BATCH = 16
_BATCHES_PER_WORKER = 2
"""One that is embedded and one that waits, so that a worker is never idle. When this process is
killed, the cluster may still embed those; so there are no more."""

_SAMPLE = 16
"""How many images a node is asked for."""

_HTTP2_SETTINGS = b"\4"
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0" + _HTTP2_SETTINGS + bytes(5)
"""The preface of RFC 9113 and an empty SETTINGS frame, which a gRPC server answers with its own."""

_SECONDS_TO_CONNECT = 10
_SECONDS_TO_ANSWER = 120
_SECONDS_WITHOUT_PROGRESS = 1800

_VAIN_ROUNDS = 3
_SECONDS_TO_SETTLE = 10
"""Ray may place the next round's workers on a node whose death it has not noticed yet."""


@contextmanager
def connected(
    address: str, options: ClusterOptions, load: LoadModel = load_encoder
) -> Iterator[Callable[[ModelFiles], EmbedFiles]]:
    """A cluster, as long as this lasts: gives what embeds files there with a model.

    address: of the cluster's head (``HOST:PORT``), or ``auto`` for the one that this machine
    belongs to. Leaving ends all that runs there for us. Raises ClusterError and UsageError.
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
        signal.signal(signal.SIGTERM, terminate)  # Ray's would not keep what is committed
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
        """See ``embed.EmbedFiles``; ``load_encoder`` is for this machine, and not called.

        Raises ClusterError if a node lacks something, or if nothing can be done any more.
        """
        if not files:
            return
        progress("asking the cluster", 0, len(files))
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
                    hint="Its dashboard or logs say why they died (memory?). "
                    "What was embedded is kept, and the next run goes on.",
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
        """Embed files once; those whose worker dies are missing from what is yielded."""
        room = room_on([node["Resources"] for node in ray.nodes() if node["Alive"]], self._options)
        batch = self._options.batch_size or (_GPU_BATCH if room.gpus else _CPU_BATCH)
        step = min(_FILES_PER_ROW, batch)
        rows = [{"row": pickle.dumps(files[n : n + step])} for n in range(0, len(files), step)]
        cpus = int(ray.cluster_resources().get("CPU", 1))
        tasks = min(len(rows), max(_TASKS_PER_CPU * cpus, len(rows) // _ROWS_PER_TASK))
        device = self._options.device
        with warnings.catch_warnings():
            # `max_restarts` has no other place. A worker that is to be restarted, and for which
            # no living node has room, would keep its batch, and the job would stand still.
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
            return  # a node died with embeddings that had not been fetched


def _ask_nodes(model: ModelFiles, root: bytes, files: Sequence[ImageFile]) -> list[str]:
    """The names of the nodes that lack the weights. Raises ClusterError for other lacks."""
    step = -(-len(files) // _SAMPLE)
    sample = [file for file in files[::step] if is_there(root, file)]
    here = answer(model, root, sample)
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    # Nodes without CPUs, as many heads are, have no part in it.
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
        except Exception as error:  # whatever importing clipsearch raises there, and Ray's own
            if any(node["NodeID"] == id and not node["Alive"] for node in ray.nodes()):
                continue  # it died meanwhile
            raise ClusterError(
                f"node {name} cannot run clipsearch: {_last_line(error)}",
                hint="Install there what is installed here: pip install "
                f"'clipsearch[ray]=={here.versions[0]}'",
            ) from error
        wrong = complaint(name, root, told, here)
        if wrong is not None:
            raise wrong
        if not told.has_weights:
            lacking.append(name)
    return lacking


def _reach(address: str) -> None:
    """Raise if nobody listens there, or not to gRPC: Ray would try for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdecimal():
        raise UsageError(
            f"'{address}' is no address of a Ray cluster",
            hint="It is HOST:PORT, as `ray start --head` prints it (usually port 6379), or auto. "
            "Run clipsearch on a machine of the cluster.",
        )
    try:
        where = (host.strip("[]"), int(port))
        with socket.create_connection(where, _SECONDS_TO_CONNECT) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            connection.sendall(_HTTP2_GREETING)
            if connection.recv(9)[3:4] != _HTTP2_SETTINGS:
                raise OSError("something else listens there")
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
            f"the cluster at {address} runs {theirs}, and this machine {ours}",
            hint="Both must be the same on every machine of a cluster.",
        )
    if address == "auto":
        return ClusterError(
            f"this machine is in no Ray cluster: {_last_line(error)}",
            hint="Start one with `ray start --head`, or name its address: --ray HOST:PORT",
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
    """Keep Ray off the terminal and the standard streams, which are ours. It has its own logs."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
    # Deaths of workers and nodes, which Ray prints on stdout. There is no switch for that.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # every row travels as soon as it is made
    context.max_errored_blocks = -1  # those of dead workers: see `embed_files`
    context.execution_no_progress_timeout_s = _SECONDS_WITHOUT_PROGRESS


@contextmanager
def _nothing_said() -> Iterator[None]:
    """Point stderr nowhere: Ray's C++ core announces there that it will say nothing."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
