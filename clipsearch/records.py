"""The records that pass between the rooms: immutable data without behavior."""

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
    """The archive's absolute path. Empty if unknown: no file is ever found there."""
    offset: int
    size: int
    """Bytes."""


Source = bytes | Span
"""Where an image's bytes are: in its own file, by absolute path, or inside another file."""


class Archived(NamedTuple):
    """What a catalog stores about an image that is not a file of its own."""

    archive: bytes | None
    """The archive's path, relative to the collection's root; None if unknown."""
    offset: int
    """Where the image starts in it, in bytes; its size is the image's."""
    caption: str | None
    url: str | None
    """Where it was downloaded from."""


class ImageFile(NamedTuple):
    """A file as described by a directory listing, or a member as described by its archive's header.

    A named tuple and not a dataclass: a walk creates one for every file, and Python creates named
    tuples faster.
    """

    path: bytes
    """Relative to the collection's root, in the file system's own bytes, with ``/`` separators."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time in nanoseconds since the epoch."""
    span: Span | None = None
    """Where its bytes are, if it is a member of an archive."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one walk over a folder."""

    files: list[ImageFile]
    unreadable: list[tuple[bytes, str]] = field(default_factory=list)
    """Folders that could not be listed, with the reason; their content is unknown."""
    links: int = 0
    """Symbolic links to images or folders, which are not followed."""
    ignored: Mapping[bytes, int] = field(default_factory=dict)
    """How many other files there are, by extension in lower case (``b".cr3"``)."""
    same: Mapping[bytes, int] = field(default_factory=dict)
    """Folders that have not changed since they were last compared, and how many images each
    holds; these images are not in ``files``."""

    def below(self, folder: bytes) -> "Found":
        """The same result with paths relative to the folder that contains ``folder``."""
        if not folder:
            return self
        files = [file._replace(path=folder + b"/" + file.path) for file in self.files]
        unreadable = [(folder + b"/" + path, why) for path, why in self.unreadable]
        return Found(files, unreadable, self.links, self.ignored)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which files of a folder are indexed; stored with the index."""

    exclude: tuple[str, ...]
    """Globs of files and folders to leave out."""
    max_pixels: int | None = None
    """Images with more pixels fail; None means the machine's limit."""

    def to_json(self) -> str:
        """The record as JSON text; ``from_json`` is its inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Scope":
        """Rebuild a record from ``to_json``'s text. Raises ValueError for any other."""
        scope: Scope = typed.from_json(cls, text)
        if scope.max_pixels is not None and scope.max_pixels < 1:
            raise ValueError("the pixel limit is not a positive number")
        return scope


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image could not be decoded, and what would have to change for it to succeed."""

    kind: FailureKind
    decoders: str
    """Names and versions of what tried to decode it."""
    pixels: int = 0
    """How many pixels the image has, if that is too many."""
    tries: int = 1
    """How many times it failed like this while the file did not change."""

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
    """What the catalog knows about a file and the next walk needs."""

    id: int
    size: int
    mtime_ns: int
    failed: bool
    unseen: bool = False
    """Indexed before cameras and places were read: its header must be read once."""
    failure: Failure | None = None
    """Only for an image that failed; None if an earlier version stored just the reason."""


class Origin(NamedTuple):
    """What an image's metadata says about its camera and place."""

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
    """Which model made a set of embeddings, with everything needed to find and load it again."""

    name: str
    """``pocket``, an architecture as open_clip spells it, ``hf-hub:...`` or a folder's path."""
    pretrained: str | None
    """The tag or the checkpoint file, as open_clip spells it; None if ``name`` is enough."""
    weights_sha256: str
    model_cfg: Mapping[str, Any]
    """open_clip's own model configuration."""
    preprocessing: Preprocessing
    fingerprint: str
    """Hash of weights, configuration, preprocessing and tokenizer: equal means interchangeable."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.model_cfg["embed_dim"])

    @property
    def label(self) -> str:
        """The model's name for users: ``ViT-B-16/laion2b_s34b_b88k``."""
        return f"{self.name}/{self.pretrained}" if self.pretrained else self.name

    def to_json(self) -> str:
        """The record as JSON text; ``from_json`` is its inverse."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Rebuild a record from ``to_json``'s text. Raises ValueError for any other."""
        spec: ModelSpec = typed.from_json(cls, text)
        if type(spec.model_cfg.get("embed_dim")) is not int or spec.dim < 1:
            raise ValueError("the model's configuration does not state the length of embeddings")
        return spec


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model and the location of its weights on this machine."""

    spec: ModelSpec
    weights: Path


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as the decoder passes it to the image tower."""

    pixels: Pixels
    """Shape ``(height, width, 3)``: one image."""
    content_hash: bytes
    """BLAKE2b-160 of the file's bytes."""
    width: int
    """In pixels, when the image is upright."""
    height: int
    taken_at: str | None
    """The camera's local time, ISO 8601, if the image says."""
    camera: str | None = None
    """Make and model, if the image says."""
    latitude: float | None = None
    """Where it was taken, in degrees, north positive; set only together with ``longitude``."""
    longitude: float | None = None
    """In degrees, east positive."""


@dataclass(frozen=True, slots=True)
class SeenImage:
    """An image that was read completely, of which only the header was decoded."""

    content_hash: bytes
    width: int
    """In pixels, when the image is upright."""
    height: int
    taken_at: str | None
    origin: Origin
    alike: bool
    """Whether all decoders agree on it: not rotated by its EXIF, opaque, and 8-bit."""


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """A file and everything that the catalog stores about it."""

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
    """Only for an image that is not a file of its own."""


class IndexedImage(NamedTuple):
    """An image as stored in the catalog, without its embedding."""

    id: int
    path: bytes
    """Relative to the collection's root."""
    size: int
    """Bytes."""
    mtime_ns: int
    content_hash: bytes
    """BLAKE2b-160 of the file's bytes; empty if unknown."""
    width: int
    """In pixels, when the image is upright; 0 if unknown."""
    height: int
    taken_at: str | None
    span: Span | None = None
    """Where its bytes are, if it is not a file of its own."""


Tested = Literal["tested", "failed", "untested"]
"""Whether an evaluation of an index's model on its domain met the domain's pass marks."""

QueryKind = Literal["text", "image", "probe"]
"""What a query was made of: each kind lies at a different distance from the images.

What scores mean is measured for texts and images; a probe's scores only rank.
"""


class Near(NamedTuple):
    """A circle on the globe, including its edge."""

    latitude: float
    """In degrees, north positive."""
    longitude: float
    """In degrees, east positive."""
    km: float


@dataclass(frozen=True, slots=True)
class Filter:
    """Which images of a collection to consider; a field that is not set accepts all."""

    under: bytes = b""
    """A folder, relative to the root."""
    name: str | None = None
    """A glob that the file's name, or, if it has a slash in it, its path, must match."""
    after: str | None = None
    """ISO 8601, local time: taken (or, if the image does not say, modified) then or later."""
    before: str | None = None
    """Likewise: taken or modified earlier."""
    min_width: int = 0
    """In pixels, when the image is upright."""
    min_height: int = 0
    suffixes: frozenset[bytes] = frozenset()
    """Extensions with their dots, in lower case."""
    paths: frozenset[bytes] | None = None
    """Absolute paths."""
    of_class: int | None = None
    """Position of a class in the collection's domain: see ``Collection.restricted``."""
    ids: frozenset[int] | None = None
    """Ids in one collection."""
    camera: str | None = None
    """A glob, or a part of the camera's make and model; ignores case."""
    near: Near | None = None
    """Taken there; an image without a place never matches."""


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
    """Cosine similarity of the query's and the image's embeddings."""
    width: int
    height: int
    taken_at: str | None
    false_alarm: float | None = None
    """The share of background queries whose best score here is at least as high, if measured."""
    precision: float | None = None
    """The probability that it is right: only if the collection itself was the test set."""
    domain: str = ""
    """Name of the domain that its collection is pinned to."""
    tested: Tested = "untested"
    calibrated: bool = True
    """Whether the meaning of scores was measured in its collection."""
    verdict: Verdict | None = None
    """Verdict on the query that found it, if unrelated queries were measured."""
    rate: float | None = None
    """The share of unrelated queries that score at least as high as that query here."""
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    collapsed: int = 0
    """How many near-duplicates that score no better were folded into it."""
    span: Span | None = None
    """Where its bytes are, if it is not a file of its own."""
    caption: str | None = None
    """As stored in its archive."""
    url: str | None = None
    """Where it was downloaded from, as stored in its archive."""


class ClusterSearch(NamedTuple):
    """A search that reads only some of the vectors, and the recall that was measured.

    Recorded with ``lists`` 0, and not used, if the search turned out not to be worth it.
    """

    lists: int
    """The number of clusters that the vectors are divided into."""
    probed: int
    """How many of them a search reads (FAISS's nprobe)."""
    queries: int
    """How many texts it was measured with: not those that chose ``probed``."""
    recall: float
    """Recall@10: the share of the exact ten best that were found."""
    scanned: float
    """The share of the vectors that were read, on average."""


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """What ``status`` reports about one collection."""

    root: Path
    directory: Path
    spec: ModelSpec
    images: int
    archived: int
    """How many of them are members of archives, or have no file on this machine."""
    failed: list[tuple[bytes, str]]
    failures: list[Failure | None]
    """For each image in ``failed``, what was recorded about its failure."""
    scope: Scope
    catalog_bytes: int
    vector_bytes: int
    created_at: str
    updated_at: str
    pending: int
    """Images in the catalog that are newer than the FAISS file (searched exactly)."""
    clusters: ClusterSearch | None
    """How the FAISS file is searched; None: exactly, and clusters were never tried."""
    damage: str = ""
    """Why the catalog is searched instead of the FAISS file; "" if the file can be used."""
    left_out: int = 0
    """How many images no search finds, because their embeddings in the catalog are damaged."""


class TextEncoder(Protocol):
    """Embeds texts into the same space as a model's images."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed ``n`` texts as ``(n, dim)`` unit vectors."""


class Encoder(TextEncoder, Protocol):
    """A dual encoder: embeds images and texts into one space."""

    @property
    def batch_size(self) -> int:
        """A good number of images per batch on the encoder's device."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        """Embed ``(n, height, width, 3)`` pixels as ``(n, dim)`` unit vectors."""

    def for_many_texts(self) -> TextEncoder | None:
        """An encoder that is faster for many texts than the text tower in numpy, or None."""
