"""Give an index that lies elsewhere the folder that its images were moved to.

An index inside its folder travels with it, and needs none of this.
"""

import os
from contextlib import suppress
from pathlib import Path

from clipsearch.errors import StoreError, UsageError
from clipsearch.images.scan import content_hash
from clipsearch.models.choice import Notify
from clipsearch.paths import absolute
from clipsearch.records import IndexedImage
from clipsearch.storage import known
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.text import printable

_SAMPLE = 20
"""How many images are read to tell a folder that was moved from another one."""

_SAME = 0.9
"""The least share of them that must be as indexed: a few may have changed since the move."""


def rehome(store: Store, root: Path, *, asked: bool, notify: Notify) -> None:
    """Make ``root`` the folder of an index that was of another one.

    Done if it is ``asked`` for; or if the old folder is gone, and a sample of the images lies
    in ``root`` under the same paths with the same content. Raises UsageError otherwise, and for
    an index that lies in the old folder itself.
    """
    old = store.root
    if old == root:
        return
    if asked and store.directory == old / FOLDER and old.exists():
        raise UsageError(
            f"the index at {store.directory} lies in its own folder, and moves with it",
            hint=f"Move {FOLDER} to {root}, and index that without --index.",
        )
    if not asked:
        move = f"clipsearch index {root} --index {store.directory} --rehome"
        if old.exists():
            raise UsageError(
                f"the index at {store.directory} is that of {old}, not of {root}",
                hint=f"Name another place with --index. If the images have moved: {move}",
            )
        if not _is_moved(store, root):
            raise UsageError(
                f"the index at {store.directory} is that of {old}, which is gone, and {root} "
                "does not have the same images under the same names",
                hint="Is a disk not mounted? If not, name another place with --index; or make "
                f"this folder the index's own: {move}",
            )
    with store.batch():
        store.set_root(root)
    notify(printable(f"the index at {store.directory} was of {old}, and is now of {root}"))


def moved_to(root: Path) -> Path | None:
    """The remembered index whose folder is gone and whose images now lie in ``root``."""
    for directory, old in known.remembered().items():
        with suppress(StoreError, OSError):
            if directory == old / FOLDER or old.exists():
                continue
            with Store.open(directory) as store:
                if store.root == old and _is_moved(store, root):
                    return directory
    return None


def _is_moved(store: Store, root: Path) -> bool:
    images = store.images()
    sample = images[:: max(1, len(images) // _SAMPLE)]
    same = sum(_is_there(image, root) for image in sample)
    return bool(sample) and same >= _SAME * len(sample)


def _is_there(image: IndexedImage, root: Path) -> bool:
    try:
        with open(absolute(os.fsencode(root), image.path), "rb") as file:
            if os.fstat(file.fileno()).st_size != image.size:
                return False
            return content_hash(file) == image.content_hash
    except OSError:
        return False
