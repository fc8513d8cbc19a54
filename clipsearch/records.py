"""The things that pass between the rooms: immutable, and free of any behavior of their own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from clipsearch import typed
from clipsearch.errors import FailureKind

Vectors = npt.NDArray[np.float32]
"""Embeddings of shape ``(n, dim)``, float32, each row of unit length."""

Pixels = npt.NDArray[np.uint8]
"""Images ready for the image tower, shape ``(n, height, width, 3)``, RGB, 0 to 255."""


class Span(NamedTuple):
    """Bytes inside a file: a member of an archive."""

    path: bytes
    """The archive's, absolute. Empty where nobody knows it: no file is ever found there."""
    offset: int
    size: int
    """Bytes."""


Source = bytes | Span
"""Where an image's bytes are: in a file of its own, by its absolute path, or inside another."""


class Archived(NamedTuple):
    """What a catalog tells of an image that is not a file of its own."""

    archive: bytes | None
    """The archive's path, relative to the collection's root; None where nobody knows it."""
    offset: int
    """Where the image begins in it; its size is that of the image."""
    caption: str | None
    url: str | None
    """Where it was downloaded from."""


class ImageFile(NamedTuple):
    """A file as a directory listing tells of it, or a member as its archive's header does.

    A named tuple and not a dataclass: a walk makes one for every file, and this is the kind of
    record that Python makes fastest.
    """

    path: bytes
    """Relative to the collection's root, in the file system's own bytes, separated by ``/``."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time in nanoseconds since the epoch."""
    span: Span | None = None
    """Where its bytes are, if it is a member of an archive."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one walk over a folder saw."""

    files: list[ImageFile]
    unreadable: list[tuple[bytes, str]] = field(default_factory=list)
    """Folders that could not be listed, with the reason; nothing is known about what they hold."""
    links: int = 0
    """Symbolic links to images or folders, which are not followed."""
    ignored: Mapping[bytes, int] = field(default_factory=dict)
    """How many other files there are, by their names' ending in lower case (``b".cr3"``)."""
    same: Mapping[bytes, int] = field(default_factory=dict)
    """Folders that are as they were when they were last compared, and how many images lie in
    each, which are not among ``files``."""

    def below(self, folder: bytes) -> "Found":
        """The same, seen from above: of the folder that has what was walked over as ``folder``."""
        if not folder:
            return self
        files = [file._replace(path=folder + b"/" + file.path) for file in self.files]
        unreadable = [(folder + b"/" + path, why) for path, why in self.unreadable]
        return Found(files, unreadable, self.links, self.ignored)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which files of a folder are indexed; kept with the index."""

    exclude: tuple[str, ...]
    """Globs of files and folders that are left out."""
    max_pixels: int | None = None
    """Images of more pixels fail; None takes the machine's limit."""

    def to_json(self) -> str:
        """The record as JSON text; ``from_json`` is its inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Scope":
        """Rebuild a record from ``to_json``'s text. Raises ValueError for any other."""
        scope: Scope = typed.from_json(cls, text)
        if scope.max_pixels is not None and scope.max_pixels < 1:
            raise ValueError("the limit of pixels is not a positive number")
        return scope


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image could not be decoded, and what would have to change for another result."""

    kind: FailureKind
    decoders: str
    """Names and versions of what tried to decode it."""
    pixels: int = 0
    """How many the image has, where they are too many."""
    tries: int = 1
    """How often it failed so, the file being the same."""

    def to_json(self) -> str:
        """The record as JSON text; ``from_json`` is its inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Failure":
        """Rebuild a record from ``to_json``'s text. Raises ValueError for any other."""
        failure: Failure = typed.from_json(cls, text)
        return failure


@dataclass(frozen=True, slots=True)
class KnownImage:
    """What the catalog knows of a file, as far as the next walk needs it."""

    id: int
    size: int
    mtime_ns: int
    failed: bool
    unseen: bool = False
    """Indexed before cameras and places were read: its header is to be looked at once."""
    failure: Failure | None = None
    """Of an image that failed; None where an earlier version kept no more than the reason."""


class Origin(NamedTuple):
    """What an image tells of where it came from."""

    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the image tower's input, in open_clip's terms (its PreprocessCfg)."""

    size: tuple[int, int]
    """Height and width in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: int = 0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model made a set of embeddings, and all that is needed to find and load it again."""

    name: str
    """``pocket``, an architecture as open_clip spells it, ``hf-hub:...`` or a folder's path."""
    pretrained: str | None
    """The tag or the checkpoint file, as open_clip spells it; None where ``name`` says it all."""
    weights_sha256: str
    model_cfg: Mapping[str, Any]
    """open_clip's own model configuration."""
    preprocessing: Preprocessing
    fingerprint: str
    """Of weights, configuration, preprocessing and tokenizer: equal means interchangeable."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.model_cfg["embed_dim"])

    @property
    def label(self) -> str:
        """How people name the model: ``ViT-B-16/laion2b_s34b_b88k``."""
        return f"{self.name}/{self.pretrained}" if self.pretrained else self.name

    def to_json(self) -> str:
        """The record as JSON text; ``from_json`` is its inverse."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Rebuild a record from ``to_json``'s text. Raises ValueError for any other."""
        spec: ModelSpec = typed.from_json(cls, text)
        if type(spec.model_cfg.get("embed_dim")) is not int or spec.dim < 1:
            raise ValueError("the model's configuration does not tell the length of embeddings")
        return spec


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model together with where its weights lie on this machine."""

    spec: ModelSpec
    weights: Path


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as the decoder hands it to the image tower."""

    pixels: Pixels
    """Shape ``(height, width, 3)``: one image."""
    content_hash: bytes
    """BLAKE2b-160 of the file's bytes."""
    width: int
    """Of the image as it is looked at, in pixels."""
    height: int
    taken_at: str | None
    """The camera's own local time, ISO 8601, where the image tells it."""
    camera: str | None = None
    """Make and model, where the image tells them."""
    latitude: float | None = None
    """Where it was taken, in degrees, north positive; with ``longitude`` or not at all."""
    longitude: float | None = None
    """In degrees, east positive."""


@dataclass(frozen=True, slots=True)
class SeenImage:
    """An image of which all was read, and nothing decoded but its header."""

    content_hash: bytes
    width: int
    """Of the image as it is looked at, in pixels."""
    height: int
    taken_at: str | None
    origin: Origin
    alike: bool
    """Whether any decoder shows it so: not turned by its EXIF, opaque, and of 8 bits."""


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """A file with all that the catalog stores about it."""

    file: ImageFile
    content_hash: bytes
    width: int
    height: int
    taken_at: str | None
    vector: Vectors
    """Shape ``(dim,)``."""
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    archived: Archived | None = None
    """Only of an image that is not a file of its own."""


class IndexedImage(NamedTuple):
    """An image as the catalog has it, without its embedding."""

    id: int
    path: bytes
    """Relative to the collection's root."""
    size: int
    """Bytes."""
    mtime_ns: int
    content_hash: bytes
    """BLAKE2b-160 of the file's bytes; empty where nobody knows it."""
    width: int
    """Of the image as it is looked at, in pixels; 0 where nobody knows it."""
    height: int
    taken_at: str | None
    span: Span | None = None
    """Where its bytes are, if it is not a file of its own."""


Tested = Literal["tested", "failed", "untested"]
"""Whether an evaluation of an index's model on its domain met the domain's pass marks."""

QueryKind = Literal["text", "image", "probe"]
"""What a query was made of: each lies at another distance from the images.

What scores mean is measured for texts and images; those of a probe's direction rank, and no more.
"""


class Near(NamedTuple):
    """A circle on the globe, its rim included."""

    latitude: float
    """In degrees, north positive."""
    longitude: float
    """In degrees, east positive."""
    km: float


@dataclass(frozen=True, slots=True)
class Filter:
    """Which images of a collection are looked at; what is not set lets all through."""

    under: bytes = b""
    """A folder, relative to the root."""
    name: str | None = None
    """A glob that the file's name must match, or, with a slash in it, its path."""
    after: str | None = None
    """ISO 8601, local time: taken (or, where the image does not tell, modified) then or later."""
    before: str | None = None
    """Likewise: taken or modified earlier."""
    min_width: int = 0
    """In pixels, of the image as it is looked at."""
    min_height: int = 0
    suffixes: frozenset[bytes] = frozenset()
    """Ends of names with their dots, in lower case."""
    paths: frozenset[bytes] | None = None
    """Absolute paths."""
    of_class: int | None = None
    """Position of a class in the collection's domain: see ``Collection.restricted``."""
    ids: frozenset[int] | None = None
    """Of one collection."""
    camera: str | None = None
    """A glob, or a part of the camera's make and model, in any case."""
    near: Near | None = None
    """Taken there; an image that does not tell its place was taken nowhere."""


EVERYTHING = Filter()

Verdict = Literal["strong", "weak", "none"]
"""Whether a collection has what a query asks for: see ``domain.verdict``."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One ranked result."""

    id: int
    path: bytes
    """Relative to ``root``."""
    root: Path
    score: float
    """Cosine similarity of the query's and the image's embedding."""
    width: int
    height: int
    taken_at: str | None
    false_alarm: float | None = None
    """The share of background queries whose best score here is as high, where it was measured."""
    precision: float | None = None
    """The probability that it is right: only where the collection was itself the test set."""
    domain: str = ""
    """Name of the domain that its collection is pinned to."""
    tested: Tested = "untested"
    calibrated: bool = True
    """Whether it is known what scores mean in its collection."""
    verdict: Verdict | None = None
    """Of the query that found it, where unrelated queries were measured."""
    rate: float | None = None
    """The share of unrelated queries that score as high as that query does here."""
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    collapsed: int = 0
    """How many images with no better score were folded into it, being nearly the same."""
    span: Span | None = None
    """Where its bytes are, if it is not a file of its own."""
    caption: str | None = None
    """As its archive tells it."""
    url: str | None = None
    """Where it was downloaded from, as its archive tells it."""


class ClusterSearch(NamedTuple):
    """A search that reads a part of the vectors, and what it was measured to find.

    Made even where it turned out not to be worth it, with ``lists`` 0, and then not used.
    """

    lists: int
    """Into how many clusters the vectors are divided."""
    probed: int
    """How many of them a search reads (FAISS's nprobe)."""
    queries: int
    """With how many texts it was measured: not those that chose ``probed``."""
    recall: float
    """Recall@10: the share of the exact ten best that were found."""
    scanned: float
    """The share of the vectors that were read, on average."""


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """What ``status`` tells about one collection."""

    root: Path
    directory: Path
    spec: ModelSpec
    images: int
    archived: int
    """How many of them are members of archives, or have no file here."""
    failed: list[tuple[bytes, str]]
    failures: list[Failure | None]
    """Of each image in ``failed``, what was kept of its failure."""
    scope: Scope
    catalog_bytes: int
    vector_bytes: int
    created_at: str
    updated_at: str
    pending: int
    """Images in the catalog that are newer than the FAISS file (searched exactly)."""
    clusters: ClusterSearch | None
    """How the FAISS file is searched; None: exactly, and nothing else was tried."""
    damage: str = ""
    """Why the FAISS file cannot be used, and the catalog is searched; "" if it can."""
    left_out: int = 0
    """Images that no search finds: their embeddings in the catalog are damaged."""


class TextEncoder(Protocol):
    """Texts into the space that a model's images lie in."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed ``n`` texts as ``(n, dim)`` unit vectors."""


class Encoder(TextEncoder, Protocol):
    """A dual encoder: images and texts into one space."""

    @property
    def batch_size(self) -> int:
        """How many images make a good batch on the encoder's device."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        """Embed ``(n, height, width, 3)`` pixels as ``(n, dim)`` unit vectors."""

    def for_many_texts(self) -> TextEncoder | None:
        """What embeds many texts faster than the text tower in numpy does; None if nothing does."""
