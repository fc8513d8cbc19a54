"""Where the indexes are, beside their pictures or elsewhere and remembered; those meant, opened.

A collection is the images under one indexed folder. Its index lies in ``.clipsearch`` inside that
folder unless another place was named. A short list in the user's data directory remembers every
indexed folder, so that a search started above or beside it finds it.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from clipsearch.errors import IndexLocked, IndexNotFound, StoreError, UsageError
from clipsearch.paths import data_dir, held, relative, write_whole
from clipsearch.records import Filter, ModelSpec
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection, tested_line
from clipsearch.text import printable

_PATIENCE = 10.0
"""Seconds to wait for others who write to the list, each for a moment."""


def directory_for(root: Path, index: Path | None) -> Path:
    """Where the index of ``root`` lies, or is to lie."""
    return index.absolute() if index else root / FOLDER


def holding(folder: Path) -> Path | None:
    """The index of the nearest collection that ``folder`` is or lies in."""
    elsewhere = {root: directory for directory, root in remembered().items()}
    for candidate in (folder, *folder.parents):
        for directory in (candidate / FOLDER, elsewhere.get(candidate)):
            if directory and Store.exists(directory):
                return directory
    return None


def find(start: Path, index: Path | None) -> list[Path]:
    """The indexes that a search from ``start`` means.

    That is ``index`` if it is given; else the collection that holds ``start``; else every
    remembered one below it. Raises IndexNotFound, listing what is known.
    """
    if index is not None:
        for directory in (index.absolute(), index.absolute() / FOLDER):
            if Store.exists(directory):
                return [directory]
        raise IndexNotFound(f"there is no index at {index}", hint=_known_collections())
    holder = holding(start)
    if holder is not None:
        return [holder]
    below = [
        directory
        for directory, root in remembered().items()
        if root.is_relative_to(start) and _is_there(directory)
    ]
    if not below:
        raise IndexNotFound(
            f"no indexed folder holds {start} or lies below it", hint=_known_collections()
        )
    return sorted(below)


def remembered() -> dict[Path, Path]:
    """Index directory -> root, for every collection indexed by this user; may be out of date."""
    try:
        listed = json.loads(_list().read_text(encoding="utf-8", errors="surrogateescape"))
        return {Path(directory): Path(root) for directory, root in listed.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember(directory: Path, root: Path) -> None:
    """Put a collection on the list; one that cannot be written costs only the convenience."""
    if remembered().get(directory) == root:
        return
    # What another run has put there meanwhile must not be lost by writing the whole anew.
    with suppress(OSError), held(_list(), _PATIENCE):
        listed = {known: at for known, at in remembered().items() if _is_there(known)}
        listed[directory] = root
        texts = {os.fspath(known): os.fspath(at) for known, at in listed.items()}
        write_whole(_list(), json.dumps(texts, indent=1).encode())


@contextmanager
def opened(
    under: Path | None, index: Path | None, notify: Callable[[str], None]
) -> Iterator[tuple[Sequence[Store], bytes]]:
    """The indexes that are meant, open for reading, and the folder of them that is meant.

    under: a folder of pictures; None means the current one. index: where the index lies, if it is
    named. The folder is relative to the root. A vector file that could not be used is written
    anew afterwards, and ``notify`` is told. Raises UsageError, IndexNotFound, IndexUnreadable,
    CollectionGone.
    """
    if under is not None and not under.exists():
        raise UsageError(f"{under} does not exist", hint="Name a folder of pictures.")
    start = (under or Path()).resolve()
    with ExitStack() as stack:
        stores = [stack.enter_context(Store.open(directory)) for directory in find(start, index)]
        for store in stores:
            store.require_root()
        prefix = relative(start, stores[0].root)
        if under is not None and not prefix and not _holds(start, stores):
            raise UsageError(
                f"{under} is not in {stores[0].root}, which is what the index at {index} is of",
                hint="Name a folder of the collection.",
            )
        yield stores, prefix
        for store in stores:
            tell_of_left_out(store, notify)
        damaged = [store for store in stores if store.damage]
    for store in damaged:
        _heal(store, notify)


def tell_of_left_out(store: Store, notify: Callable[[str], None]) -> None:
    """Tell of pictures that no search finds, since their embeddings are damaged."""
    if store.left_out:
        notify(
            f"{store.left_out} pictures of {printable(os.fspath(store.root))} have a damaged "
            "embedding and are not found; mend them with: clipsearch verify --repair, then "
            "clipsearch index"
        )


def shared_model(stores: Sequence[Store]) -> ModelSpec:
    """The one model of all these indexes: scores of different models cannot be compared.

    Raises UsageError if there are several.
    """
    specs = {store.spec.fingerprint: store.spec for store in stores}
    if len(specs) > 1:
        made = "; ".join(f"{store.root} ({store.spec.label})" for store in stores)
        raise UsageError(
            f"several folders here are indexed with different models: {made}",
            hint="Say which one you mean with --under FOLDER.",
        )
    return stores[0].spec


def left_out(stores: Sequence[Store], only: Filter) -> list[str]:
    """What a filter leaves out for want of knowing it, a line each.

    Of a list of files those that the index does not have; of a filter by camera or place the
    pictures of which these were not read.
    """
    lines = []
    if only.paths is not None:
        indexed = sum(store.count(Filter(paths=only.paths)) for store in stores)
        if indexed < len(only.paths):
            missing = len(only.paths) - indexed
            lines.append(f"{missing} of {len(only.paths)} listed files are not in the index")
    if only.camera is None and only.near is None:
        return lines
    return lines + [
        f"{unseen} pictures of {printable(os.fspath(store.root))} were indexed before cameras and "
        "places were read, and are left out; the next clipsearch index reads them"
        for store in stores
        if (unseen := store.unseen())
    ]


def tested_lines(collections: Sequence[Collection]) -> list[str]:
    """Whether answers about each collection were tested, a line each."""
    lines = [tested_line(collection) for collection in collections]
    if len(lines) == 1:
        return lines
    roots = (printable(os.fspath(collection.store.root)) for collection in collections)
    return [f"{root}: {line}" for root, line in zip(roots, lines, strict=True)]


def _is_there(directory: Path) -> bool:
    """Whether there is an index that can be looked at; others' folders are no reason to stop."""
    with suppress(OSError):
        return Store.exists(directory)
    return False


def _list() -> Path:
    return data_dir() / "collections.json"


def _known_collections() -> str:
    roots = sorted(
        os.fspath(root) for directory, root in remembered().items() if _is_there(directory)
    )
    if not roots:
        return "Nothing is indexed yet. Index a folder with: clipsearch index FOLDER"
    return (
        f"Indexed folders: {', '.join(roots)}. Go to one, name one with --under FOLDER, "
        "or index another with: clipsearch index FOLDER"
    )


def _holds(folder: Path, stores: Sequence[Store]) -> bool:
    """Whether all these collections lie in ``folder``."""
    return all(store.root.is_relative_to(folder) for store in stores)


def _heal(store: Store, notify: Callable[[str], None]) -> None:
    """Write a vector file anew that a search could not use; the catalogue has all that it needs.

    Nobody waits for clusters here: a large collection is searched exactly until the next `index`.
    """
    where = printable(f"the vector file of {store.root} cannot be used ({store.damage})")
    try:
        with Store.open_for_writing(store.directory) as writer:
            if not writer.update_vector_index():
                return  # another process has been quicker
    except IndexLocked:
        return  # an index run is at work, and will write it
    except StoreError as error:
        why = printable(str(error))
        notify(f"{where} nor written anew ({why}); the catalogue was searched instead")
        return
    notify(f"{where}; it was written anew from the catalogue")
