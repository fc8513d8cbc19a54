"""Bring one folder's index up to date: what ``index`` and ``watch`` share."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import progress, say
from clipsearch.cli.options.model import (
    ModelChoice,
    load_encoder,
    load_text_encoder,
    model_for,
    new_model,
)
from clipsearch.errors import IndexLocked, IndexNotFound, UsageError
from clipsearch.paths import relative

if TYPE_CHECKING:
    from clipsearch.domain.taxonomy import Domain
    from clipsearch.records import Encoder, Found, IndexSummary, ModelFiles
    from clipsearch.storage.catalog import Store

ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="Leave out files and folders of this name, in which * stands for anything, or, with "
        "a slash, at this path. Hidden ones, node_modules and @eaDir always are. Repeatable.",
        show_default=False,
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="Skip images of more pixels; by default 256 million, or less on a small machine.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Update:
    """What the user wants to be done with a folder."""

    root: Path
    """The folder, as ``root_of`` gives it."""
    choice: ModelChoice
    index: Path | None = None
    exclude: Sequence[str] = ()
    max_pixels: int | None = None
    domain: "Domain | None" = None
    rebuild: bool = False
    prune: bool = False
    wait: bool = False


def root_of(folder: Path) -> Path:
    """The folder as an absolute path. Raises UsageError if it is none."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}", hint="Name a folder that holds pictures.")
    return folder.resolve()


def place_of(root: Path, index: Path | None) -> Path:
    """Where the index lies that ``root`` is in, or where its own is to be made."""
    from clipsearch.storage import known

    holder = None if index else known.holding(root)
    return holder or known.directory_for(root, index)


def run(
    update: Update,
    *,
    look: "Callable[[Store, bytes], Found] | None" = None,
    load: "Callable[[ModelFiles, ModelChoice], Encoder]" = load_encoder,
) -> "IndexSummary":
    """Do it, holding the writer's lock meanwhile. Raises CollectionGone and many others.

    look: finds the pictures of a collection below one of its folders; by default all of them that
    ``update`` does not exclude. load: loads the model, if that is necessary.
    """
    from clipsearch.images import scan
    from clipsearch.indexing.reconcile import reconcile
    from clipsearch.storage import collection, known
    from clipsearch.storage.catalog import REBUILD, Store

    root, choice, rebuild = update.root, update.choice, update.rebuild
    directory = place_of(root, update.index)
    with ExitStack() as stack:
        try:
            store = stack.enter_context(_writer(directory, update.wait))
        except IndexNotFound:
            files = new_model(choice)
            store = stack.enter_context(Store.create(directory, root, files.spec))
        else:
            if update.index and store.root != root and store.root.exists():
                raise UsageError(
                    f"the index at {directory} is that of {store.root}, not of {root}",
                    hint="Name another place with --index.",
                )
            # An index without pictures is not bound to its model, which perhaps never worked.
            files = model_for(store, choice, may_change=rebuild or store.is_empty())
            rebuild = rebuild or files.spec.fingerprint != store.spec.fingerprint
        known.remember(directory, store.root)
        target = store
        if rebuild:
            target = stack.enter_context(_rebuilding(store, directory / REBUILD, files))
        under = b"" if rebuild else relative(root, store.root)
        with progress() as bar:
            bar("looking for pictures", 0, 0)
            if look is None:
                found = scan.find(os.fsencode(store.root), exclude=update.exclude, under=under)
            else:
                found = look(store, under)
            summary = reconcile(
                target,
                found,
                lambda: load(files, choice),
                under=under,
                prune=update.prune,
                max_pixels=update.max_pixels,
                progress=bar,
            )
            if rebuild:
                collection.carry_over(store, target)
            if update.domain:
                collection.pin(target, update.domain)
            bar("measuring what scores mean", 0, 1)
            collection.calibrate(target, lambda: load_text_encoder(files, choice, load))
        if rebuild:
            store.replace_with(target)
    return summary


def _writer(directory: Path, wait: bool) -> "Store":
    """The index, as soon as it can be written to if we are to ``wait``."""
    from clipsearch.storage.catalog import Store
    from clipsearch.text import printable

    try:
        return Store.open_for_writing(directory)
    except IndexLocked as error:
        if not wait:
            raise
        held = str(error)
    # Not before the error and the lock in it are gone: a finalizer swallows an interrupt.
    say(f"{printable(held)}; waiting for it")
    return Store.open_for_writing(directory, wait=True)


def _rebuilding(old: "Store", directory: Path, files: "ModelFiles") -> "Store":
    """The index that is to replace ``old``: an interrupted one is taken up again."""
    from clipsearch.storage.catalog import Store

    if Store.exists(directory):
        unfinished = Store.open_for_writing(directory)
        if unfinished.spec.fingerprint == files.spec.fingerprint:
            return unfinished
        unfinished.close()
        shutil.rmtree(directory)
    return Store.create(directory, old.root, files.spec)
