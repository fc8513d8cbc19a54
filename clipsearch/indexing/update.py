"""Bring the index of a folder up to date, for ``index``, ``watch`` and library users.

The steps: open or create the store under the writer's lock, resolve the model, walk the folder,
reconcile the store with it (new files are embedded batch by batch), write the vector file, and
measure what scores mean in this index.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from clipsearch.domain.taxonomy import Domain
from clipsearch.errors import (
    IndexDamaged,
    IndexExists,
    IndexLocked,
    IndexNotFound,
    IndexUnreadable,
    ModelMismatch,
    UsageError,
)
from clipsearch.images import scan
from clipsearch.images.scan import is_excluded
from clipsearch.indexing.changes import IndexSummary
from clipsearch.indexing.embed import EmbedFiles, Progress, embed_files
from clipsearch.indexing.reconcile import reconcile
from clipsearch.indexing.rehome import moved_to, rehome
from clipsearch.models import registry
from clipsearch.models.choice import ModelChoice, Notify
from clipsearch.models.load import Encoders
from clipsearch.paths import relative
from clipsearch.records import Found, ModelFiles, Scope
from clipsearch.storage import collection, known
from clipsearch.storage.catalog import REBUILD, Store
from clipsearch.storage.rescue import rescue
from clipsearch.text import number_of, printable


@dataclass(frozen=True, slots=True)
class UpdateOptions:
    """How to index a folder."""

    model: ModelChoice = field(default_factory=ModelChoice)
    index: Path | None = None
    """The index directory; None: inside the folder, or the remembered place."""
    exclude: Sequence[str] = ()
    """Globs of files and folders to exclude from now on, in addition to the stored ones."""
    no_exclude: bool = False
    """Forget the globs that are stored with the index."""
    max_pixels: int | None = None
    """Images with more pixels fail from now on; None uses the stored limit, if any."""
    domain: Domain | None = None
    """Becomes the index's own domain from now on."""
    rebuild: bool = False
    """Embed all images again, in an index that replaces the old one at the end.

    If the index is damaged, embed only the images that cannot be recovered from it."""
    rehome: bool = False
    """The images have moved: assign the index at ``index`` to the folder."""
    prune: bool = False
    """Remove missing images even if they are much of the collection."""
    wait: bool = False
    """Wait while another run writes to the same index."""

    def scope(self, kept: Scope) -> Scope:
        """Which files to index, given the stored scope."""
        exclude = () if self.no_exclude else kept.exclude
        return Scope(
            tuple(dict.fromkeys((*exclude, *self.exclude))), self.max_pixels or kept.max_pixels
        )


Look = Callable[[Store, bytes], Found]
"""Finds the images of a collection below one of its folders."""


def update(
    folder: Path,
    options: UpdateOptions,
    *,
    look: Look | None = None,
    try_failed: bool = True,
    encoders: Callable[[ModelFiles], Encoders] | None = None,
    embed_with: Callable[[ModelFiles], EmbedFiles] = lambda files: embed_files,
    progress: Progress = lambda doing, done, total: None,
    notify: Notify = lambda message: None,
) -> IndexSummary:
    """Bring the index of ``folder`` up to date, creating it if there is none.

    look: all images that are not excluded, by default. try_failed: decode failed images again if
    they may succeed now. encoders: of a model; by default they are loaded for this update, if
    needed. embed_with: what embeds images with a model, by default on this machine. The scope
    options and a new index's domain are stored before anything is embedded, so that they also
    apply to a run that resumes an interrupted one.

    Each batch is committed as soon as it is embedded. Raises UsageError if ``folder`` is not a
    folder, IndexLocked, ModelError, StoreError, and CollectionGone if too much is missing at once.
    """
    root = root_of(folder)
    if options.rehome and options.index is None:
        raise UsageError(
            "--rehome is for an index outside its folder, and needs --index DIR",
            hint=f"An index inside its folder moves with it: clipsearch index {folder}",
        )
    directory = place_of(root, options.index)
    encoders = encoders or (lambda files: options.model.encoders(files))
    rebuild = options.rebuild and not _rescued(directory, root, options, notify)
    with ExitStack() as stack:
        try:
            store, files = _writer(directory, options.wait, notify), None
        except IndexNotFound:
            if options.rehome:
                raise
            store, files = _made(directory, root, options, notify)
        stack.enter_context(store)
        is_new = store.attachment("calibration") is None  # or was interrupted before it finished
        if files is None:
            if options.index or not root.is_relative_to(store.root):
                rehome(store, root, asked=options.rehome, notify=notify)
            # An index without images is not bound to its model, which may never have worked.
            may_change = options.rebuild or store.is_empty()
            files = model_for(store, options.model, may_change=may_change, notify=notify)
            rebuild = rebuild or files.spec.fingerprint != store.spec.fingerprint
            if rebuild and store.count_archived():
                raise UsageError(
                    f"the index at {directory} has images from archives, which only import adds; "
                    "another index would lack them",
                    hint="Import them into a new index: clipsearch import --index DIR",
                )
        known.remember(directory, store.root)
        scope = _kept_scope(store, options)
        target = store
        if rebuild:
            target = stack.enter_context(_rebuilding(store, directory / REBUILD, files))
            with target.batch():
                target.set_scope(scope)
        if options.domain and store.attachment("domain") is None:
            collection.pin(store, options.domain)
        under = relative(root, store.root)
        if is_excluded(under, scope.exclude):
            raise UsageError(
                f"{folder} is excluded from the index of {store.root}",
                hint="See what is excluded: clipsearch status. To include it, index again with "
                "--no-exclude.",
            )
        if rebuild:
            under = b""
        progress("looking for images", 0, 0)
        if look is None:
            found = scan.find(
                os.fsencode(store.root),
                exclude=scope.exclude,
                under=under,
                listed=target.listings(under),
            )
        else:
            found = look(store, under)
        loaded = encoders(files)
        summary = reconcile(
            target,
            found,
            lambda: loaded.both,
            under=under,
            prune=options.prune,
            try_failed=try_failed,
            embed=embed_with(files),
            progress=progress,
        )
        known.tell_of_left_out(target, notify)
        if rebuild:
            collection.carry_over(store, target)
        if options.domain:
            collection.pin(target, options.domain)
        progress("calibrating scores", 0, 1)
        collection.calibrate(target, lambda: loaded.many_texts)
        if is_new and not target.is_empty():
            summary.tested = collection.tested_line(collection.Collection(target))
        if rebuild:
            store.replace_with(target)
    return summary


def _kept_scope(store: Store, options: UpdateOptions) -> Scope:
    """Apply the options to the index's scope, store it and return it."""
    before = None
    try:
        before = store.scope
    except IndexUnreadable:
        if not options.no_exclude:
            raise
    scope = options.scope(before or Scope(()))
    if scope != before:
        with store.batch():
            store.set_scope(scope)
    return scope


def root_of(folder: Path) -> Path:
    """The folder as an absolute path. Raises UsageError if it is not a readable folder."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}", hint="Name a folder that contains images.")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UsageError(
            f"cannot read the folder {folder}: {error.strerror}",
            hint="Check its permissions; it may belong to another user. Nothing was changed.",
        ) from error
    return folder.resolve()


def place_of(root: Path, index: Path | None) -> Path:
    """The directory of the index that ``root`` is in or was moved from, or of a new one.

    Raises UsageError if ``index`` is a folder that contains other files.
    """
    if index is not None:
        directory = known.directory_for(root, index)
        known.require_own_folder(directory)
        return directory
    return known.holding(root, named=True) or moved_to(root) or known.directory_for(root, None)


def model_for(store: Store, choice: ModelChoice, *, may_change: bool, notify: Notify) -> ModelFiles:
    """The model for an existing index: its own, unless the user names one or it may change.

    Raises ModelError, and ModelMismatch if another model is named and it may not change.
    """
    if not choice.is_named:
        try:
            return registry.locate(store.spec)
        except ModelMismatch:  # different weights under the same name
            if not may_change:
                raise
        spec = store.spec
        return registry.resolve(spec.name, spec.pretrained, offline=choice.offline, notify=notify)
    files = choice.files(notify)
    same = files.spec.fingerprint == store.spec.fingerprint
    if files.spec != store.spec and (same or not may_change):
        with store.batch():
            store.set_spec(files.spec)
    return files


def _writer(directory: Path, wait: bool, notify: Notify) -> Store:
    """Open the index for writing; if ``wait``, as soon as it is unlocked."""
    return _in_turn(lambda wait: Store.open_for_writing(directory, wait=wait), wait, notify)


def _made(
    directory: Path, root: Path, options: UpdateOptions, notify: Notify
) -> tuple[Store, ModelFiles | None]:
    """A new index and its model; or the index that another run made in the meantime, and None."""
    files = options.model.files(notify)
    try:
        make = partial(Store.create, directory, root, files.spec)
        return _in_turn(lambda wait: make(wait=wait), options.wait, notify), files
    except IndexExists:
        return _writer(directory, options.wait, notify), None


def _in_turn(take: Callable[[bool], Store], wait: bool, notify: Notify) -> Store:
    """Call ``take``, which is told whether to wait; first without waiting, then in turn."""
    try:
        return take(False)
    except IndexLocked as error:
        if not wait:
            raise
        held = str(error)
    # Only after the error and the lock in it are gone: a finalizer swallows an interrupt.
    notify(f"{printable(held)}; waiting for it")
    return take(True)


def _rescued(directory: Path, root: Path, options: UpdateOptions, notify: Notify) -> bool:
    """Whether the catalog was damaged; if so, its readable part replaces it."""
    try:
        with Store.open(directory) as store:
            problems = store.sqlite_problems()
    except IndexNotFound:
        return False
    except IndexDamaged as error:
        problems = [str(error)]
    if not problems:
        return False
    saved = rescue(directory, root, lambda: options.model.files(notify).spec, wait=options.wait)
    notify(
        printable(
            f"the catalog of {root} is damaged ({problems[0]}): recovered "
            f"{number_of(saved.pictures, 'image')} from it; the others are embedded again; "
            f"the damaged file is kept as {saved.damaged}"
        )
    )
    return True


def _rebuilding(old: Store, directory: Path, files: ModelFiles) -> Store:
    """The index that will replace ``old``; resumes an interrupted one."""
    if Store.exists(directory):
        unfinished = Store.open_for_writing(directory)
        if unfinished.spec.fingerprint == files.spec.fingerprint:
            return unfinished
        unfinished.close()
        shutil.rmtree(directory)
    return Store.create(directory, old.root, files.spec)
