"""clipsearch from Python, for scripts and notebooks.

>>> import clipsearch
>>> summary = clipsearch.index("photos", model="pocket")
>>> summary.added, summary.failed
(6, [])
>>> collection = clipsearch.open("photos")
>>> hits = collection.search("a dog", k=3, all=True)
>>> len(hits)
3
>>> hits[0].score >= hits[1].score
True
>>> paths, vectors = collection.embeddings()
>>> vectors.shape == (len(paths), collection.dim)
True
>>> [label] = collection.classify(["photos/a.png"], texts=["a dog", "a red square"], k=1)
>>> len(label.ranking)
1
>>> collection.close()

In a notebook, hits are displayed as thumbnails. Images are decoded in separate processes, so a
script that indexes or classifies must do so under ``if __name__ == "__main__":``, like any script
that uses Python's multiprocessing.

The usage policy and the collection's domain apply here as on the command line: a query that they
refuse raises an error. All errors derive from ``clipsearch.errors.ClipsearchError``; their
``hint`` says what to do next.
"""

import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import numpy.typing as npt

from clipsearch.domain import taxonomy
from clipsearch.errors import IndexNotFound, UsageError
from clipsearch.evaluation.classify import Classified, Labels, classify, pictures_of
from clipsearch.images.thumbnails import SIZE, thumbnails_of
from clipsearch.indexing.changes import IndexSummary
from clipsearch.indexing.update import UpdateOptions, update
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.paths import absolute, relative
from clipsearch.records import Filter, Hit, Tested, Verdict
from clipsearch.search.answer import answer
from clipsearch.search.explain import not_calibrated
from clipsearch.search.query import Query, SearchOptions, Text
from clipsearch.storage import collection as storage
from clipsearch.storage import known
from clipsearch.storage.catalog import Store
from clipsearch.web.pages.document import inert

AnyPath = str | os.PathLike[str]


def index(
    folder: AnyPath,
    model: str | None = None,
    domain: str | None = None,
    *,
    pretrained: str | None = None,
    device: str = "auto",
) -> IndexSummary:
    """Bring the index of a folder up to date, or create it.

    Only new and changed images are read, and each batch is saved as soon as it is embedded.
    Images that cannot be decoded are listed in the summary and do not raise an error.

    model: the name of an architecture, a model folder, ``hf-hub:ORG/REPO`` or ``pocket``
    (default: the index's own model; for a new index, the default model). A different model than
    the index's own embeds all images again. pretrained: the name or the file of its weights.
    domain: a shipped domain or a domain file (default: the index's own). device: ``auto``, ``cpu``
    or ``cuda``.

    Raises UsageError if ``folder`` is not a folder, BadDomain, ModelError, IndexLocked while
    another process is writing to the index, StoreError, and CollectionGone if so many images
    are missing that the disk may not be mounted.
    """
    options = UpdateOptions(
        model=ModelChoice(model, pretrained, device),
        domain=taxonomy.load(domain) if domain else None,
    )
    return update(Path(folder), options)


def open(folder: AnyPath, *, device: str = "auto") -> "Collection":
    """Open the collection that ``folder`` is, or is inside of, for queries.

    device: the device that the model runs on, if it has to be loaded. Raises UsageError if
    ``folder`` is not a folder, IndexNotFound if it is not indexed, IndexUnreadable, and
    CollectionGone if the images are not where they were.
    """
    start = Path(folder)
    if not start.is_dir():
        raise UsageError(f"{start} is not a folder", hint="Name a folder that holds images.")
    start = start.resolve()
    directory = known.holding(start, named=True)
    if directory is None:
        raise IndexNotFound(
            f"{start} is not indexed", hint="Index it first: clipsearch.index(FOLDER)."
        )
    store = Store.open(directory)
    store.require_root()
    return Collection(store, relative(start, store.root), device)


class Hits(Sequence[Hit]):
    """The hits of a query, best first."""

    def __init__(
        self,
        query: str,
        hits: Sequence[Hit],
        notes: Sequence[str] = (),
        verdict: Verdict | None = None,
    ) -> None:
        self.query = query
        self.notes = tuple(notes)
        """Notes about the hits, one line each: whether the collection was tested and is
        calibrated."""
        self.verdict = verdict
        """``strong``, ``weak`` or ``none``; None before the first calibration."""
        self._hits = tuple(hits)

    @property
    def paths(self) -> list[Path]:
        """The absolute paths of the hits."""
        return [Path(os.fsdecode(_path(hit))) for hit in self]

    @overload
    def __getitem__(self, at: int) -> Hit: ...
    @overload
    def __getitem__(self, at: slice) -> "Hits": ...
    def __getitem__(self, at: int | slice) -> "Hit | Hits":
        if isinstance(at, slice):
            return Hits(self.query, self._hits[at], self.notes, self.verdict)
        return self._hits[at]

    def __len__(self) -> int:
        return len(self._hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self._hits)

    def __repr__(self) -> str:
        lines = [f"{hit.score:.3f}  {path}" for hit, path in zip(self, self.paths, strict=True)]
        return "\n".join([f"<{len(self)} hits for {self.query!r}>", *lines])

    def _repr_html_(self) -> str:
        """Thumbnails for a notebook, best hit first."""
        pictures = thumbnails_of(self)
        figures = "".join(_figure(hit, pictures.get(_path(hit))) for hit in self)
        heading = f"{len(self)} hits for “{inert(self.query)}”"
        notes = "".join(f"<p>{inert(note)}</p>" for note in self.notes)
        grid = f'<div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>'
        return f"<p>{heading}</p>{grid}{notes}"


class Collection:
    """An indexed folder, open for queries. Use as a context manager, or ``close`` it.

    It sees what an index run commits in the meantime, including a rebuild with another model.
    Encoders are loaded when they are first needed.
    """

    def __init__(self, store: Store, under: bytes = b"", device: str = "auto") -> None:
        """Use ``clipsearch.open`` instead. under: the folder that queries are restricted to."""
        self._opened = store
        self._only = Filter(under=under)
        self._device = device
        self._encoders = Encoders.of(store.spec, device)

    @property
    def root(self) -> Path:
        """The indexed folder, absolute."""
        return self._store.root

    @property
    def model(self) -> str:
        """The model's name and weights, such as ``ViT-B-16/laion2b_s34b_b88k``."""
        return self._store.spec.label

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._store.spec.dim

    @property
    def domain(self) -> str:
        """The name of the domain that queries are checked against."""
        return self._known.domain.name

    @property
    def tested(self) -> Tested:
        """Whether an evaluation of the model met the domain's pass marks."""
        return self._known.tested

    def __len__(self) -> int:
        return self._store.count(self._only)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        strict: bool = False,
        all: bool = False,
        allow_out_of_domain: bool = False,
        require_tested: bool = False,
    ) -> Hits:
        """The ``k`` images that match a text best, or fewer if no others are good enough.

        strict: accept only a strong match (see ``Hits.verdict``). all: return the best images
        whatever the verdict. allow_out_of_domain: answer queries that have nothing to do with the
        domain.

        Raises RefusedByPolicy, OutOfDomain, NotTested with ``require_tested`` and, before the first
        calibration, with ``strict``, UsageError for an empty query, ModelError and IndexUnreadable.
        """
        if not query.strip():
            raise UsageError("the query is empty", hint="Say what to look for.")
        if k < 1:
            raise UsageError(f"k is {k}, and must be at least 1", hint="Ask for one hit or more.")
        current = self._known
        options = SearchOptions(
            k=k,
            only=self._only,
            strict=strict,
            all=all,
            allow_out_of_domain=allow_out_of_domain,
            require_tested=require_tested,
        )
        found = answer([current], Query((Text(query),)), options, self._encoders)
        unsure = [] if found.calibrated else not_calibrated(options)
        notes = [storage.tested_line(current), *unsure, *found.notes]
        return Hits(query, found.hits, notes, found.judgment.verdict)

    def classify(
        self,
        paths: Sequence[AnyPath] = (),
        *,
        texts: Sequence[str] | None = None,
        probe: str | None = None,
        domain: str | None = None,
        k: int = 1,
    ) -> list[Classified]:
        """The ``k`` most probable classes of each image, best first.

        paths: images and folders (default: the whole collection). Images that are already indexed
        are not read again; images that cannot be decoded are left out. The classes are ``texts``,
        or those of a trained ``probe`` or of another ``domain`` (default: those of the
        collection's own domain). Probabilities are shares among these classes: an image that
        shows none of them is still assigned to one.

        Raises UsageError, RefusedByPolicy for a text, BadDomain, ModelError.
        """
        store = self._store
        start = Path(os.fsdecode(absolute(os.fsencode(store.root), self._only.under)))
        pictures, _ = pictures_of([Path(path) for path in paths], store, start)
        model = ModelChoice(device=self._device, offline=True)
        done = classify(pictures, Labels(texts, probe, domain), store, model, k=k)
        return list(done.found)

    def embeddings(self) -> tuple[list[Path], npt.NDArray[np.float16]]:
        """The images' absolute paths, and their embeddings ``(n, dim)`` in the same order.

        Each row has unit length, up to rounding to float16. Raises IndexUnreadable.
        """
        store = self._store
        images = {image.id: image.path for image in store.images(self._only)}
        paths: list[Path] = []
        rows = [np.empty((0, store.spec.dim), np.float16)]
        for ids, vectors in store.embeddings():
            here = [n for n, id in enumerate(ids.tolist()) if id in images]
            rows.append(np.asarray(vectors[here], np.float16))
            paths += [store.root / os.fsdecode(images[int(ids[n])]) for n in here]
        return paths, np.concatenate(rows)

    def close(self) -> None:
        """Close the index."""
        self._opened.close()

    def __enter__(self) -> "Collection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Collection {self.root}: {len(self)} images, {self.model}, {self.domain}>"

    @property
    def _store(self) -> Store:
        """The current index; it is reopened, with its model, after a rebuild."""
        if self._opened.is_replaced():
            opened = Store.open(self._opened.directory)
            self._opened.close()
            self._opened = opened
            self._encoders = Encoders.of(opened.spec, self._device)
        return self._opened

    @property
    def _known(self) -> storage.Collection:
        """Read again each time: an evaluation may have been saved in the meantime."""
        return storage.Collection(self._store)


def _path(hit: Hit) -> bytes:
    return absolute(os.fsencode(hit.root), hit.path)


def _figure(hit: Hit, thumbnail: bytes | None) -> str:
    name = inert(os.fsdecode(hit.path))
    picture = "cannot be shown"
    if thumbnail is not None:
        source = f"data:image/jpeg;base64,{b64encode(thumbnail).decode('ascii')}"
        picture = f'<img src="{source}" alt="{name}" width="{SIZE // 2}" height="{SIZE // 2}">'
    caption = f"<figcaption>{hit.score:.3f} {name}</figcaption>"
    return f'<figure style="margin:0;width:{SIZE // 2}px">{picture}{caption}</figure>'
