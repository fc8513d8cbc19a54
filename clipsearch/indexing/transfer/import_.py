"""Index images with existing embeddings, made by clipsearch or by other programs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from clipsearch.errors import ExchangeError, ImageError, IndexNotFound, UsageError
from clipsearch.images import scan
from clipsearch.images.pool import DecodePool
from clipsearch.indexing.embed import Progress, reason
from clipsearch.indexing.reconcile import class_prompts
from clipsearch.indexing.rehome import rehome
from clipsearch.indexing.transfer.check import Row, check, unit
from clipsearch.indexing.transfer.layout import Export, array, read, rows_of
from clipsearch.indexing.transfer.members import Added, Members
from clipsearch.indexing.update import model_for, place_of
from clipsearch.models.choice import ModelChoice, Notify
from clipsearch.paths import relative
from clipsearch.records import (
    EmbeddedImage,
    Found,
    KnownImage,
    ModelFiles,
    ModelSpec,
    SeenImage,
)
from clipsearch.storage import collection, known
from clipsearch.storage.catalog import Store
from clipsearch.text import printable

_FILES_PER_COMMIT = 500
"""How many imported images share a commit, which costs an fsync."""

_SEEN_AHEAD = 64


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import embeddings."""

    model: ModelChoice = field(default_factory=ModelChoice)
    """The model that made them; by default the index's own, or the one that the export names."""
    index: Path | None = None
    """The index directory; None: inside the folder, or the remembered place."""
    sample: int = 20
    """How many embeddings to recompute from their images and compare."""
    no_files: bool = False
    """Index the export without its images, even if its rows name files."""


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """The result of one import."""

    added: int
    known: int
    """Rows whose images were already in the index."""
    missing: tuple[bytes, ...]
    """Paths, as in the export, that match no image in the folder."""
    duplicates: tuple[bytes, ...]
    """Paths that an earlier row already had."""
    left: list[bytes]
    """Images left to ``index``: see ``Row.is_of``."""
    failed: list[tuple[bytes, str]]
    """Images that cannot be read, with the reason."""
    compared: int
    """How many embeddings were compared with recomputed ones."""
    archives: tuple[tuple[bytes, int], ...]
    """Archives that are missing from the folder or too short, with the number of their rows."""
    damaged: tuple[str, ...]
    """Archives that may have contained more images when embedded, and why."""


def import_embeddings(
    source: Path,
    root: Path | None,
    options: ImportOptions,
    *,
    progress: Progress = lambda doing, done, total: None,
    notify: Notify = lambda message: None,
) -> ImportSummary:
    """Index the images of the folder ``root`` with the embeddings of an export.

    They are files, or members of archives in ``root``. Without ``root`` the export is indexed on
    its own: its images may not exist anywhere, so none is compared, and hits have no file. If
    rows name files, this requires ``no_files``.

    Each batch is committed at once. Raises ExchangeError, before anything is imported, if the
    export is inconsistent or its embeddings do not belong to their images; UsageError,
    ModelError, StoreError.
    """
    if root is not None and not root.is_dir():
        raise UsageError(f"{root} is not a folder", hint="--root takes the folder of images.")
    exported, choice = read(source), options.model
    folder = (root or source).resolve()
    directory = place_of(folder, options.index)
    with ExitStack() as stack:
        store: Store | None = None
        try:
            store = stack.enter_context(Store.open_for_writing(directory))
        except IndexNotFound:
            files = _model_of(exported, choice, notify)
        else:
            if not folder.is_relative_to(store.root):
                rehome(store, folder, asked=False, notify=notify)
            files = model_for(store, choice, may_change=False, notify=notify)
        require_model(exported, files.spec)
        base = store.root if store else folder
        under = relative(folder, base)
        matched = Matched(exported, os.fsencode(base), (), 0, (), ())
        if root is not None:
            exclude = store.scope.exclude if store else ()
            found = scan.find(os.fsencode(base), exclude=exclude, under=under)
            before = store.known(under) if store else {}
            matched = match(exported, os.fsencode(folder), os.fsencode(base), found, before)
        members = Members(exported, os.fsencode(base), under, alone=root is None)
        survey = members.survey(store, options.sample)
        if root is None and survey.files and not options.no_files:
            raise UsageError(
                f"{survey.files} of the {exported.rows} rows of {source} name files",
                hint="Give their folder with --root FOLDER, or say that they are not here with "
                "--no-files.",
            )
        if not (matched.wanted or matched.known or survey.wanted or survey.known):
            missing = [*matched.missing[:1], *survey.archives]
            raise ExchangeError(
                f"none of the {exported.rows} rows of {source} names an image in {folder}"
                + "".join(
                    f"; the first names {printable(os.fsdecode(path))}" for path in missing[:1]
                ),
                hint="--root takes the folder that contains the files in image_path.",
            )
        done, added, compared = Imported(), Added(), 0
        if matched.wanted or survey.wanted:
            encoders = choice.encoders(files)
            for rows in (matched.wanted, survey.sample):
                if rows:
                    compared += check(
                        exported,
                        matched.root,
                        rows,
                        files.spec,
                        lambda: encoders.both,
                        options.sample,
                        progress,
                    )
            if not compared:
                notify(
                    "there are no images here to compare the embeddings with; they are assumed "
                    f"to be from {printable(files.spec.label)}"
                )
            store = store or stack.enter_context(Store.create(directory, folder, files.spec))
            known.remember(directory, store.root)
            done = add(store, matched, progress)
            added = members.add(store, progress)
            store.update_vector_index(
                lambda: class_prompts(encoders.text, progress), progress=progress
            )
            progress("calibrating scores", 0, 1)
            collection.calibrate(store, lambda: encoders.many_texts)
    return ImportSummary(
        done.added + added.added,
        matched.known + survey.known,
        matched.missing,
        (*matched.duplicates, *added.duplicates),
        done.left,
        [*done.failed, *survey.odd],
        compared,
        tuple(survey.archives.items()),
        exported.damaged,
    )


def _model_of(exported: Export, choice: ModelChoice, notify: Notify) -> ModelFiles:
    """The model of a new index: the one that the user or the export names."""
    if not choice.is_named:
        if not exported.told:
            raise UsageError(
                f"{exported.folder} does not say which model made it",
                hint="Name it, for example with --model ViT-B-32 --pretrained openai.",
            )
        # A file from elsewhere may name a model, but may not trigger a download.
        named = exported.told["name"], exported.told.get("pretrained")
        choice = replace(choice, name=named[0], pretrained=named[1], offline=True)
    return choice.files(notify)


@dataclass(frozen=True, slots=True)
class Matched:
    """Which rows of an export belong to which files."""

    exported: Export
    root: bytes
    """The collection's, absolute: the files are relative to it."""
    wanted: tuple[Row, ...]
    """The rows to import."""
    known: int
    """Rows whose images are already in the index."""
    missing: tuple[bytes, ...]
    """Paths, as in the export, that match no image in the folder."""
    duplicates: tuple[bytes, ...]
    """Paths that an earlier row already had."""


@dataclass(slots=True)
class Imported:
    """The outcomes for the rows to import."""

    added: int = 0
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    """Images that cannot be read, with the reason."""
    left: list[bytes] = field(default_factory=list)
    """Images that have changed since, or that programs decode differently: see ``Row.is_of``."""


def require_model(exported: Export, spec: ModelSpec) -> None:
    """Raise ExchangeError if an export cannot be from this model."""
    if exported.told.get("fingerprint", spec.fingerprint) != spec.fingerprint:
        raise ExchangeError(
            f"the embeddings in {exported.folder} are from {exported.told['model']}, "
            f"not from {spec.label}",
            hint="Import them with their own model: leave --model out, or give another --index.",
        )
    if exported.dim != spec.dim:
        raise ExchangeError(
            f"the embeddings in {exported.folder} have {exported.dim} dimensions, "
            f"but {spec.label} makes {spec.dim}",
            hint="Name the model that made them with --model and --pretrained.",
        )


def match(
    exported: Export, folder: bytes, root: bytes, found: Found, known: dict[bytes, KnownImage]
) -> Matched:
    """Find the file for each row of an export.

    folder: where the images are, absolute. root: the collection's, which contains it. found: the
    images below ``folder``. A row's path is absolute, or relative to ``folder`` or to the
    current folder, or has the same place below the exported folder as its file below ``folder``.
    """
    files = {file.path: file for file in found.files}
    place = _Places(folder, root, exported.told.get("root"))
    wanted, missing, duplicates = [], [], []
    seen: set[bytes] = set()
    old = 0
    for number, shard in enumerate(exported.shards):
        for row, told in enumerate(rows_of(shard.metadata)):
            if told.archived.archive is not None:
                continue
            path = told.path
            file = next((files[here] for here in place(path) if here in files), None)
            if file is None:
                missing.append(path)
            elif file.path in seen:
                duplicates.append(path)
            else:
                seen.add(file.path)
                entry = known.get(file.path)
                if entry is None or entry.failed or (entry.size, entry.mtime_ns) != file[1:3]:
                    wanted.append(Row(file, number, row, told.content_hash))
                else:
                    old += 1
    return Matched(exported, root, tuple(wanted), old, tuple(missing), tuple(duplicates))


def add(store: Store, matched: Matched, progress: Progress) -> Imported:
    """Add embeddings to a store of the same model; each batch is committed at once.

    Files and their headers are read, but nothing is decoded.
    """
    done = Imported()
    rows = {row.file.path: row for row in matched.wanted}
    files = [row.file for row in matched.wanted]
    with DecodePool(
        os.fsencode(store.root), files, None, max_pixels=None, ahead=_SEEN_AHEAD
    ) as pool:
        waiting: list[tuple[Row, SeenImage]] = []
        for count, (file, outcome) in enumerate(pool, start=1):
            match outcome:
                case SeenImage() if rows[file.path].is_of(outcome):
                    waiting.append((rows[file.path], outcome))
                case SeenImage():
                    done.left.append(file.path)
                case ImageError() | OSError():
                    done.failed.append((file.path, reason(outcome)))
            if len(waiting) == _FILES_PER_COMMIT or count == len(files):
                images = list(_embedded(matched.exported, waiting))
                with store.batch():
                    store.add(images)
                done.added += len(images)
                waiting = []
                progress("importing", count, len(files))
    return done


def _embedded(exported: Export, seen: Iterable[tuple[Row, SeenImage]]) -> Iterator[EmbeddedImage]:
    arrays: dict[int, npt.NDArray[Any]] = {}
    for row, image in seen:
        if row.shard not in arrays:
            arrays[row.shard] = array(exported.shards[row.shard].embeddings)
        facts = (image.content_hash, image.width, image.height, image.taken_at)
        yield EmbeddedImage(row.file, *facts, unit(arrays[row.shard][row.row]), *image.origin)


class _Places:
    """Candidate paths of a row's file, relative to a collection's root."""

    def __init__(self, folder: bytes, root: bytes, exported: str | None) -> None:
        self._folder, self._here = folder, os.fsencode(os.path.realpath("."))
        self._root = os.path.join(root, b"")
        self._exported = os.path.join(os.fsencode(exported), b"") if exported else None
        self._real: dict[bytes, bytes] = {}

    def __call__(self, path: bytes) -> Iterator[bytes]:
        if b"\0" in path:
            return
        tried = [os.path.join(self._folder, path), os.path.join(self._here, path)]
        if self._exported and path.startswith(self._exported):
            tried.append(os.path.join(self._folder, path.removeprefix(self._exported)))
        for whole in tried:
            above, name = os.path.split(whole)
            if above not in self._real:
                self._real[above] = os.path.realpath(above)
            whole = os.path.join(self._real[above], name)
            if whole.startswith(self._root):
                yield whole.removeprefix(self._root).replace(os.fsencode(os.sep), b"/")
