"""What runs on the nodes of a cluster, whichever engine schedules it.

Rows are columns of pickled values: ``{"row": [...]}``. An error that is not about a single image
travels as a ``Failure``, since an engine would retry forever.
"""

import os
import pickle
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.errors import ClipsearchError, ClusterError, WeightsNotFound
from clipsearch.images.pool import SECONDS_PER_FILE, Decoder, source_of
from clipsearch.indexing.embed import Outcome, embed_decoded
from clipsearch.models import registry, weights
from clipsearch.paths import absolute, cache_dir, write_whole
from clipsearch.records import DecodedImage, Encoder, ImageFile, ModelFiles, Preprocessing

Batch = list[tuple[ImageFile, Outcome]]

LoadModel = Callable[[ModelFiles, str, int | None], Encoder]
"""Loads a model on a device for batches of a given size: ``models.load.load_encoder``."""

Fetch = Callable[[], bytes]
"""Fetches the content of the weights from where they were sent."""

_NEVER = threading.Event()

PACKAGES = ("clipsearch", "open_clip_torch", "ray")
"""Packages whose versions must match on all machines."""


_MOST_THREADS = 16
"""A batch of 16 images cannot keep more threads busy."""

_DECODING_SHARE = 0.25
"""Share of a machine's CPUs that models never get. Without it, decoding would starve them all."""

RAY_STATUS = "`ray status` on a machine of the cluster shows what is running there."


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How much of a cluster to use, and on which devices."""

    workers: int | None = None
    """Models loaded at once; None: as many as fit."""
    gpus_per_worker: float | None = None
    """None: one, if the cluster has any GPUs."""
    device: str = "auto"
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What workers and decoding tasks reserve on a cluster."""

    workers: int
    """Number of workers."""
    gpus: float
    """GPUs per worker."""
    cpus: float
    """CPUs per worker, as reported to the engine."""
    threads: int
    """Threads that each worker really uses."""
    cpus_to_decode: float
    """CPUs per decoding task."""


def room_on(nodes: Sequence[Mapping[str, float]], options: ClusterOptions) -> Room:
    """Fit workers on nodes that have these ``CPU``s and ``GPU``s.

    On a GPU, a worker reserves the GPU and no CPU: the CPUs decode. Without GPUs, a node works
    like a single machine: a model with all its threads, and as many decoding processes; the engine
    is told that the model takes three quarters of the CPUs. Raises ClusterError if nothing fits.
    """
    cpus = [int(has.get("CPU", 0)) for has in nodes]
    if not any(cpus):
        raise ClusterError("the cluster has no CPUs to decode images with", hint=RAY_STATUS)
    gpus = options.gpus_per_worker
    if gpus is None:
        wanted = options.device == "auto" or options.device.startswith("cuda")
        gpus = 1.0 if wanted and any(has.get("GPU") for has in nodes) else 0.0
    if gpus:
        most = sum(int(has.get("GPU", 0) / gpus + 1e-9) for has in nodes)
        threads, claimed, cpus_to_decode = 1, 0.0, 1.0
    else:
        threads = min(_MOST_THREADS, *(count for count in cpus if count))
        if options.workers:
            threads = max(1, min(threads, sum(cpus) // options.workers))
        most = sum(count // threads for count in cpus)
        claimed, cpus_to_decode = (1 - _DECODING_SHARE) * threads, _DECODING_SHARE
    if not most:
        raise ClusterError(f"no node of the cluster has {gpus:g} GPUs", hint=RAY_STATUS)
    workers = min(options.workers or most, most)
    return Room(workers, gpus, claimed, threads, cpus_to_decode)


class Decoding:
    """Files to pixels, in a process of its own: an image that crashes it does not kill a worker."""

    def __init__(self, root: bytes, preprocessing: Preprocessing, max_pixels: int | None) -> None:
        self._root = root
        self._arguments = (preprocessing, max_pixels)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Rows of ``ImageFile``s -> rows of ``(file, DecodedImage or why it is missing)``."""
        return _rows([_or_failure(self._decoded, pickle.loads(row)) for row in rows["row"]])

    def _decoded(self, files: Sequence[ImageFile]) -> list[tuple[ImageFile, Any]]:
        return [(file, self._outcome(file)) for file in files]

    def _outcome(self, file: ImageFile) -> Any:
        decoder = _decoder(*self._arguments)
        outcome = decoder.decode(source_of(self._root, file), SECONDS_PER_FILE, _NEVER)
        if not decoder.alive:
            _decoder.cache_clear()
        return outcome


@cache
def _decoder(preprocessing: Preprocessing, max_pixels: int | None) -> Decoder:
    """The decoder of this Ray process, reused across tasks."""
    return Decoder(preprocessing, max_pixels)


class Embedding:
    """A worker: pixels to embeddings, a batch at a time."""

    def __init__(
        self,
        *,
        model: ModelFiles,
        sent: Fetch | None,
        device: str,
        batch_size: int,
        threads: int,
        load: LoadModel,
    ) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is loaded; Ray rounds down
        self._encoder = _or_failure(lambda: load(_here(model, sent), device, batch_size))

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Rows of decoded files -> one row of ``(file, EmbeddedImage or why it is missing)``."""
        if isinstance(self._encoder, Failure):
            return _rows([self._encoder])
        parts = [pickle.loads(row) for row in rows["row"]]
        failure = next((part for part in parts if isinstance(part, Failure)), None)
        decoded = [pair for part in parts for pair in part] if failure is None else []
        return _rows([failure or _or_failure(self._embedded, decoded)])

    def _embedded(self, decoded: Sequence[tuple[ImageFile, Any]]) -> Batch:
        made: Batch = [pair for pair in decoded if not isinstance(pair[1], DecodedImage)]
        images = [pair for pair in decoded if isinstance(pair[1], DecodedImage)]
        if images:
            made += embed_decoded(self._encoder, images)
        return made


def _rows(values: Sequence[Any]) -> dict[str, Any]:
    """A column of pickled values. (An array of ``bytes`` would lose trailing zeros.)"""
    column = np.empty(len(values), object)
    column[:] = [pickle.dumps(value) for value in values]
    return {"row": column}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on a node that is not about a single image. Ray Data would retry it forever."""

    message: str
    hint: str


def _or_failure(work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except ClipsearchError as error:
        return Failure(f"node {socket.gethostname()}: {error}", error.hint)
    except Exception as error:
        where = socket.gethostname()
        return Failure(
            f"node {where}: unexpected {type(error).__name__}: {error}", "This is a bug. Report it."
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node reports about itself."""

    versions: tuple[str, ...]
    unseen: bytes | None
    """An image that is missing, or has another size."""
    has_weights: bool


def answer(model: ModelFiles, root: bytes, sample: Sequence[ImageFile]) -> Answer:
    """Report a node's versions, whether it sees the images, and which weights it has."""
    unseen = next((file.path for file in sample if not is_there(root, file)), None)
    return Answer(tuple(map(version, PACKAGES)), unseen, weights_here(model) is not None)


def complaint(node: str, root: bytes, told: Answer, here: Answer) -> ClusterError | None:
    """Why a node that reported ``told`` cannot embed these images; None if it can."""
    for package, theirs, ours in zip(PACKAGES, told.versions, here.versions, strict=True):
        if theirs != ours:
            return ClusterError(
                f"node {node} has {package} {theirs}, but this machine has {ours}",
                hint="Embeddings are comparable only if the versions match. "
                f"On that node, install {package}=={ours}",
            )
    if told.unseen is not None:
        path = os.fsdecode(absolute(root, told.unseen))
        return ClusterError(
            f"node {node} does not see the same folder {os.fsdecode(root)}: {path} is missing or "
            "differs",
            hint="Mount the folder at the same path on every node of the cluster.",
        )
    return None


def is_there(root: bytes, file: ImageFile) -> bool:
    """Whether the file, or the archive that contains it, is on this machine too."""
    # Compare sizes only: each network file system rounds modification times in its own way.
    try:
        if file.span is not None:
            return os.stat(file.span.path).st_size >= file.span.offset + file.span.size
        return os.stat(absolute(root, file.path)).st_size == file.size
    except OSError:
        return False


def weights_here(model: ModelFiles) -> ModelFiles | None:
    """The same model with the weights on this machine, matched by content."""
    for path in (model.weights, _sent_to(model)):
        with suppress(OSError):
            if path.is_file() and weights.sha256_of(path) == model.spec.weights_sha256:
                return ModelFiles(model.spec, path)
    with suppress(ClipsearchError):  # no such model, or different weights
        return registry.locate(model.spec)
    return None


def _here(model: ModelFiles, sent: Fetch | None) -> ModelFiles:
    """The model with local weights, first written to the cache if sent. Raises WeightsNotFound."""
    found = weights_here(model)
    if found is None and sent is not None:
        with suppress(OSError):
            write_whole(_sent_to(model), sent())
        found = weights_here(model)
    if found is None:
        raise WeightsNotFound(
            f"the weights of {model.spec.label} are missing, and cannot be written to "
            f"{_sent_to(model).parent}",
            hint="Is the disk full? Set CLIPSEARCH_CACHE_DIR to use another place.",
        )
    return found


def _sent_to(model: ModelFiles) -> Path:
    return cache_dir() / "weights" / f"{model.spec.weights_sha256}{model.weights.suffix}"
