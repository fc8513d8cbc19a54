"""Replace a damaged catalog with an index of its readable content, and keep the damaged file.

At every moment there is a catalog: the damaged one or the new one.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from clipsearch.errors import StoreError
from clipsearch.records import ModelSpec
from clipsearch.storage import salvage
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.lock import WriterLock

_SALVAGED = "salvaged"
"""The folder in the index folder where the new index is built."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """The result of rescuing a damaged catalog."""

    pictures: int
    """How many images were saved, good and failed."""
    damaged: Path
    """Where the damaged file is now."""


def rescue(
    directory: Path, root: Path, model: Callable[[], ModelSpec], *, wait: bool = False
) -> Rescued:
    """Save images with their embeddings, probes, evaluations and anything else that is readable.

    root, model: for the new index, if the damaged catalog does not name them. If it does not name
    its model, its embeddings mean nothing and are not copied. Raises IndexLocked without ``wait``,
    ModelError, StoreError; the index is then unchanged.
    """
    catalog, unfinished = directory / CATALOG, directory / _SALVAGED
    lock = WriterLock(directory, wait=wait)
    try:
        told = salvage.told(catalog)
        shutil.rmtree(unfinished, ignore_errors=True)
        # It gets the permissions of the index folder. Its root is set below.
        with Store.create(unfinished, directory, told.spec or model()) as new:
            pictures = new.salvage(catalog, pictures=told.spec is not None)
            new.update_vector_index(force=True)
            damaged = _set_aside(catalog)
            own = b"" if directory.name == FOLDER else os.fsencode(root)
            new.take_place(directory, own if told.root is None else told.root)
    finally:
        lock.release()
    return Rescued(pictures, damaged)


def _set_aside(catalog: Path) -> Path:
    """Keep the file under a second name. Raises StoreError."""
    names = (catalog.with_stem(f"{catalog.stem}.damaged-{n}") for n in count(1))
    aside = next(name for name in names if not name.exists())
    try:
        try:
            os.link(catalog, aside)
        except OSError:  # not every file system has hard links
            shutil.copyfile(catalog, aside)
        journal = Path(f"{catalog}-journal")
        if journal.exists():  # it must not be rolled back into the new catalog
            os.replace(journal, f"{aside}-journal")
    except OSError as error:
        raise StoreError(
            f"cannot set {catalog} aside: {error.strerror}",
            hint="Free some space or move the file away yourself, then run the same command again.",
        ) from error
    return aside
