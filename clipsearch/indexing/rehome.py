"""Point an external index to the folder that its images were moved to.

An index inside its folder moves with the folder and does not need this.
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
"""How many images are read to recognize a moved folder."""

_SAME = 0.9
"""The share of them that must match the index: a few may have changed since the move."""


def rehome(store: Store, root: Path, *, asked: bool, notify: Notify) -> None:
    """Make ``root`` the folder of an index that belonged to another folder.

    Done if ``asked``, or if the old folder is gone and a sample of the images has the same paths
    and content in ``root``. Otherwise raises UsageError, as it does for an index that is inside
    the old folder.
    """
    old = store.root
    if old == root:
        return
    if asked and store.directory == old / FOLDER and old.exists():
        raise UsageError(
            f"the index at {store.directory} is inside its own folder and moves with it",
            hint=f"Move {FOLDER} to {root}, then index that folder without --index.",
        )
    if not asked:
        move = f"clipsearch index {root} --index {store.directory} --rehome"
        if old.exists():
            raise UsageError(
                f"the index at {store.directory} belongs to {old}, not to {root}",
                hint=f"Choose another place with --index. If the images have moved: {move}",
            )
        if not _is_moved(store, root):
            raise UsageError(
                f"the index at {store.directory} belongs to {old}, which is gone, and {root} "
                "does not have the same images under the same names",
                hint="Is a disk not mounted? If not, choose another place with --index, or assign "
                f"the index to this folder: {move}",
            )
    with store.batch():
        store.set_root(root)
    notify(printable(f"the index at {store.directory} belonged to {old}; it now belongs to {root}"))


def moved_to(root: Path) -> Path | None:
    """The remembered index whose folder is gone and whose images are now in ``root``."""
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
