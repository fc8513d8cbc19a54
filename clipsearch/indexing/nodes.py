"""What runs on the nodes of a cluster, whatever engine brings the work there.

Rows are columns of pickled values: ``{"row": [...]}``. An error that concerns no single image
travels as a ``Failure``, since an engine would try again for ever.
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
"""Loads a model on a device, for batches of that size: ``models.load.load_encoder``."""

Fetch = Callable[[], bytes]
"""Gets the content of the weights from where they were sent to."""

_NEVER = threading.Event()

PACKAGES = ("clipsearch", "open_clip_torch", "ray")
"""Those whose versions must be the same on all machines."""


_MOST_THREADS = 16
"""A batch of 16 images keeps no more of them busy."""

_DECODING_SHARE = 0.25
"""Of a machine's CPUs, never promised to a model. With none left for reading, all would wait."""

RAY_STATUS = "`ray status` on a machine of the cluster says what runs there."


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How much of a cluster is used, and for what."""

    workers: int | None = None
    """Models loaded at once; None: as many as there is room for."""
    gpus_per_worker: float | None = None
    """None: one, if the cluster has any."""
    device: str = "auto"
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What workers and decoding tasks claim of a cluster."""

    workers: int
    """How many there are."""
    gpus: float
    """Of each worker."""
    cpus: float
    """Of each worker, as the engine is told."""
    threads: int
    """Of each worker, in truth."""
    cpus_to_decode: float
    """Of each decoding task."""


def room_on(nodes: Sequence[Mapping[str, float]], options: ClusterOptions) -> Room:
    """How workers fit on nodes that have these ``CPU``s and ``GPU``s.

    On a GPU, a worker claims it and no CPU: those decode. On CPUs, a node works as one machine
    does alone: a model with all its threads, and as many decoding processes; the engine is told
    that the model takes three quarters of them. Raises ClusterError if there is no room.
    """
    cpus = [int(has.get("CPU", 0)) for has in nodes]
    if not any(cpus):
        raise ClusterError("the cluster has no CPUs to read images with", hint=RAY_STATUS)
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
    """Files to pixels, in a process beside Ray's own: an image that kills it kills no worker."""

    def __init__(self, root: bytes, preprocessing: Preprocessing, max_pixels: int | None) -> None:
        self._root = root
        self._arguments = (preprocessing, max_pixels)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Rows of ``ImageFile``s -> rows of ``(file, DecodedImage or why there is none)``."""
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
    """That of this process of Ray's, kept from task to task."""
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
        """Rows of decoded files -> one row of ``(file, EmbeddedImage or why there is none)``."""
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
    """A column of pickled values. (An array of ``bytes`` would lose zeros at their ends.)"""
    column = np.empty(len(values), object)
    column[:] = [pickle.dumps(value) for value in values]
    return {"row": column}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on a node that concerns no single image. Ray Data would try again for ever."""

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
    """What a node says of itself."""

    versions: tuple[str, ...]
    unseen: bytes | None
    """An image that is not there, or of another size."""
    has_weights: bool


def answer(model: ModelFiles, root: bytes, sample: Sequence[ImageFile]) -> Answer:
    """Asked of every node: which versions it has, whether it sees the images, and the weights."""
    unseen = next((file.path for file in sample if not is_there(root, file)), None)
    return Answer(tuple(map(version, PACKAGES)), unseen, weights_here(model) is not None)


def complaint(node: str, root: bytes, told: Answer, here: Answer) -> ClusterError | None:
    """Why a node that ``told`` this cannot embed these images, if it cannot."""
    for package, theirs, ours in zip(PACKAGES, told.versions, here.versions, strict=True):
        if theirs != ours:
            return ClusterError(
                f"node {node} has {package} {theirs}, and this machine {ours}",
                hint="Embeddings are comparable only if all are the same. "
                f"Install there: {package}=={ours}",
            )
    if told.unseen is not None:
        path = os.fsdecode(absolute(root, told.unseen))
        return ClusterError(
            f"node {node} does not see the folder {os.fsdecode(root)}: it has no {path}, "
            "or another one",
            hint="Mount the folder at the same path on every node of the cluster.",
        )
    return None


def is_there(root: bytes, file: ImageFile) -> bool:
    """Whether the file, or the archive that it is in, is on this machine too."""
    # By size alone: network file systems round modification times, each in its own way.
    try:
        if file.span is not None:
            return os.stat(file.span.path).st_size >= file.span.offset + file.span.size
        return os.stat(absolute(root, file.path)).st_size == file.size
    except OSError:
        return False


def weights_here(model: ModelFiles) -> ModelFiles | None:
    """The same model with its weights on this machine, by their content."""
    for path in (model.weights, _sent_to(model)):
        with suppress(OSError):
            if path.is_file() and weights.sha256_of(path) == model.spec.weights_sha256:
                return ModelFiles(model.spec, path)
    with suppress(ClipsearchError):  # no model of that name, or another one
        return registry.locate(model.spec)
    return None


def _here(model: ModelFiles, sent: Fetch | None) -> ModelFiles:
    """The same, written to the cache first if they had to be sent. Raises WeightsNotFound."""
    found = weights_here(model)
    if found is None and sent is not None:
        with suppress(OSError):
            write_whole(_sent_to(model), sent())
        found = weights_here(model)
    if found is None:
        raise WeightsNotFound(
            f"the weights of {model.spec.label} are not there, and cannot be written to "
            f"{_sent_to(model).parent}",
            hint="Is its disk full? CLIPSEARCH_CACHE_DIR names another place.",
        )
    return found


def _sent_to(model: ModelFiles) -> Path:
    return cache_dir() / "weights" / f"{model.spec.weights_sha256}{model.weights.suffix}"
