"""Assign images to classes, best first."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.domain import policy, taxonomy, zero_shot
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.zero_shot import Ranked
from clipsearch.errors import UsageError
from clipsearch.evaluation import probes
from clipsearch.images.scan import find
from clipsearch.indexing.embed import LoadEncoder, Progress, embeddings_of, unchanged
from clipsearch.models import registry
from clipsearch.models.choice import ModelChoice, Notify
from clipsearch.paths import absolute, relative
from clipsearch.records import Filter, Found, ImageFile, ModelSpec, TextEncoder, Vectors
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.storage.texts import embedded_texts

Rank = Callable[[Vectors, int], list[list[Ranked]]]
"""Maps images ``(n, dim)`` and a number k to the k best classes of each."""

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Labels:
    """The source of the classes; by default the domain of the index."""

    texts: Sequence[str] | None = None
    """Captions or labels."""
    probe: str | None = None
    """The name of a trained probe in the index."""
    domain: str | None = None
    """A shipped domain or a domain file."""

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.texts, self.probe, self.domain)) > 1:
            raise UsageError(
                "texts, a probe and a domain each name the classes", hint="Choose one of them."
            )


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes that images may be assigned to."""

    by: str
    """Their source: the domain's name, ``@`` and a probe's name, or ``texts``."""
    count: int
    rank: Rank
    class_of: Callable[[str], str | None]
    """The class that corresponds to a folder name."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to classify."""

    path: bytes
    """Absolute."""
    folder: str
    """The first folder below the requested one, or else the folder that contains it."""
    id: int | None
    """Its id in the index, if it is there unchanged."""


@dataclass(frozen=True, slots=True)
class Classified:
    """An image and its classes, most probable first."""

    picture: Picture
    ranking: list[Ranked]


@dataclass(frozen=True, slots=True)
class Classification:
    """Images with their classes, and what could not be classified."""

    found: Iterator[Classified]
    """Ranked lazily, during iteration."""
    classes: Classes
    model: ModelSpec
    skipped: tuple[tuple[bytes, str], ...]
    """Absolute paths of images that cannot be decoded, with the reason."""


def pictures_of(
    paths: Sequence[Path], store: Store | None, start: Path = Path()
) -> tuple[list[Picture], list[tuple[bytes, str]]]:
    """The selected images; and what cannot be listed, with the reason.

    With ``paths``, those images and folders; without, what ``store`` has below ``start``.
    Raises UsageError for a path that does not exist, CollectionGone for an unreadable folder.
    """
    if paths or store is None:
        return gathered(paths, store)
    return indexed(store, start.resolve()), []


def classify(
    pictures: Sequence[Picture],
    labels: Labels,
    store: Store | None,
    model: ModelChoice,
    *,
    k: int | None = None,
    progress: Progress = lambda doing, done, total: None,
    notify: Notify = lambda message: None,
) -> Classification:
    """Assign images to classes. Those that ``store`` has are not read again.

    model: which model to use without an index, and which device. k: how many classes per
    image, best first; None: one, or all of ``labels.texts``. Raises UsageError, RefusedByPolicy
    for a text, ModelError.
    """
    for text in labels.texts or ():
        policy.check(text)
    files = registry.locate(store.spec) if store else model.files(notify)
    encoders = model.encoders(files)
    classes = classes_of(labels, store, files.spec, lambda: encoders.text)
    kept, images, skipped = embeddings(pictures, files.spec, store, lambda: encoders.both, progress)
    usual = len(labels.texts) if labels.texts is not None else 1
    found = classified(kept, images, classes.rank, k or usual)
    return Classification(found, classes, files.spec, skipped)


def classes_of(
    labels: Labels,
    store: Store | None,
    spec: ModelSpec,
    load_encoder: Callable[[], TextEncoder],
) -> Classes:
    """The selected classes. Raises UsageError for a probe or a domain that does not exist."""
    known = Collection(store) if store else None
    scale = known.logit_scale if known else zero_shot.LOGIT_SCALE
    if labels.texts is not None:
        texts = list(labels.texts)
        vectors = zero_shot.encode_all(load_encoder(), texts)
        return Classes(
            "texts",
            len(texts),
            lambda images, k: zero_shot.classify(images, vectors, texts, k, scale),
            lambda folder: None,
        )
    if labels.probe is not None:
        if store is None:
            raise UsageError(
                "a probe belongs to an index, and nothing is indexed here",
                hint="Give the index with --index DIR.",
            )
        trained = probes.ready(store, labels.probe)
        by_name = {taxonomy.folded(name): name for name in trained.classes}
        return Classes(
            f"@{labels.probe}",
            len(trained.classes),
            trained.classify,
            lambda folder: by_name.get(taxonomy.folded(folder)),
        )
    own = known if labels.domain is None else None
    domain = own.domain if own else taxonomy.load(labels.domain or taxonomy.DEFAULT)
    kept = own.texts if own else None
    classes = (kept or embedded_texts(domain, spec, load_encoder)).gate.classes
    return Classes(
        domain.name,
        len(domain.classes),
        lambda images, k: zero_shot.classify(images, classes, domain.class_names, k, scale),
        lambda folder: _class_name(domain, folder),
    )


def _class_name(domain: Domain, folder: str) -> str | None:
    at = domain.find_class(folder)
    return None if at is None else domain.classes[at].name


def indexed(store: Store, start: Path) -> list[Picture]:
    """The images of an index in the folder ``start``, in path order."""
    inside = start.is_relative_to(store.root)
    base = start if inside else store.root
    images = store.images(Filter(under=relative(base, store.root)))
    return [
        _picture(os.fsencode(store.root), image.path, base, image.id)
        for image in sorted(images, key=lambda image: image.path)
    ]


def gathered(
    paths: Sequence[Path], store: Store | None
) -> tuple[list[Picture], list[tuple[bytes, str]]]:
    """These images and those in these folders, without duplicates; and what cannot be listed.

    Raises UsageError for a path that does not exist, CollectionGone for an unreadable folder.
    """
    pictures: dict[bytes, Picture] = {}
    unreadable: dict[bytes, str] = {}
    for path in paths:
        whole = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
        inside = store is not None and whole.is_relative_to(store.root)
        root = store.root if store is not None and inside else Path(whole.anchor)
        under = relative(whole, root)
        found = _found(path, os.fsencode(root), under)
        unreadable |= {absolute(os.fsencode(root), at): why for at, why in found.unreadable}
        ids = unchanged(store, found.files, under) if store is not None and inside else {}
        base = whole if path.is_dir() else whole.parent
        for file in found.files:
            picture = _picture(os.fsencode(root), file.path, base, ids.get(file.path))
            pictures.setdefault(picture.path, picture)
    return list(pictures.values()), list(unreadable.items())


def _found(path: Path, root: bytes, under: bytes) -> Found:
    if path.is_dir():
        return find(root, under=under)
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="classify takes images and folders."
        ) from error
    return Found([ImageFile(under, status.st_size, status.st_mtime_ns)], [], 0)


def _picture(root: bytes, path: bytes, base: Path, id: int | None) -> Picture:
    whole = absolute(root, path)
    below = os.fsdecode(os.path.relpath(whole, os.fsencode(base))).split(os.sep)
    return Picture(whole, below[0] if len(below) > 1 else base.name, id)


def classified(
    pictures: Sequence[Picture], images: Vectors, rank: Rank, k: int
) -> Iterator[Classified]:
    """Rank the classes of each image, a few at a time. images: ``(n, dim)``."""
    for start in range(0, len(pictures), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        rankings = rank(images[some], k)
        yield from (Classified(*pair) for pair in zip(pictures[some], rankings, strict=True))


def embeddings(
    pictures: Sequence[Picture],
    spec: ModelSpec,
    store: Store | None,
    load_encoder: LoadEncoder,
    progress: Progress,
) -> tuple[list[Picture], Vectors, tuple[tuple[bytes, str], ...]]:
    """The images that have an embedding, these ``(n, dim)``, and why the others have none."""
    vectors: dict[bytes, Vectors] = {}
    for picture in pictures:
        if store is not None and picture.id is not None:
            with suppress(KeyError):  # it just changed, or is damaged: read it like a new one
                vectors[picture.path] = store.vector(picture.id)
    new = [picture.path for picture in pictures if picture.path not in vectors]
    found = embeddings_of(b"", new, spec, store, load_encoder, progress)
    vectors |= zip((new[row] for row in found.rows), found.vectors, strict=True)
    kept = [picture for picture in pictures if picture.path in vectors]
    images = np.empty((len(kept), spec.dim), np.float32)
    for row, picture in enumerate(kept):
        images[row] = vectors[picture.path]
    return kept, images, found.failed
