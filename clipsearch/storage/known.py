"""Where the indexes are, beside their images or elsewhere and remembered; those meant, opened.

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
from clipsearch.images.scan import content_hash
from clipsearch.paths import absolute, data_dir, held, relative, write_whole
from clipsearch.records import Filter, ModelSpec
from clipsearch.storage.below import look_below
from clipsearch.storage.catalog import BEGUN, FOLDER, Store
from clipsearch.storage.collection import Collection, tested_line
from clipsearch.storage.vectors.embeddings import VECTORS
from clipsearch.text import did_you_mean, number_of, printable

_NAMED = 3
"""Indexed folders in a hint."""

_PATIENCE = 10.0
"""Seconds to wait for others who write to the list, each for a moment."""


def directory_for(root: Path, index: Path | None) -> Path:
    """Where the index of ``root`` lies, or is to lie; ``index`` may name the folder that has it."""
    if index is None:
        return root / FOLDER
    directory = index.absolute()
    has_one = not Store.exists(directory) and Store.exists(directory / FOLDER)
    return directory / FOLDER if has_one else directory


def require_own_folder(directory: Path) -> None:
    """Raise UsageError for a folder with other things in it, where no index is to be made."""
    if Store.exists(directory) or not directory.is_dir():
        return
    others = sorted(set(os.listdir(directory)) - BEGUN)
    if others:
        raise UsageError(
            f"{directory} has other things in it, {others[0]} for example; an index takes a "
            "folder of its own",
            hint=f"Name one that is empty or new: --index {directory / 'clipsearch-index'}",
        )


def holding(folder: Path, *, named: bool = False) -> Path | None:
    """The index of the nearest collection that ``folder`` is or lies in.

    Somebody else's is not used by itself: whoever may write to /tmp could put one there, and have
    everything below indexed to it. It is used where this user has indexed with it before, or where
    the user ``named`` this very folder.
    """
    listed = remembered()
    for directory in _around(folder):
        if directory in listed or (named and directory == folder / FOLDER) or is_ours(directory):
            return directory
    return None


def is_ours(directory: Path) -> bool:
    """Whether an index folder is this user's, or root's, who may write everywhere anyway.

    As for git: under sudo, also that of the user who called it. Without users, all are. Raises
    OSError if it is not there.
    """
    if not hasattr(os, "geteuid"):
        return True
    ours = {0, os.geteuid()}
    if os.geteuid() == 0:
        with suppress(ValueError):
            ours.add(int(os.environ.get("SUDO_UID", "")))
    return os.lstat(directory).st_uid in ours  # a link counts for whoever made it


def find(
    start: Path,
    index: Path | None,
    notify: Callable[[str], None] = lambda message: None,
    *,
    named: bool = False,
) -> list[Path]:
    """The indexes that a search from ``start`` means.

    That is ``index`` if it is given; else the collection that holds ``start``, as ``holding`` has
    it; else every remembered one below it; else those that a bounded look below it finds, which
    are remembered and of which ``notify`` is told. Raises IndexNotFound, listing what is known.
    """
    if index is not None:
        directory = directory_for(start, index)
        if Store.exists(directory):
            return [directory]
        raise IndexNotFound(f"there is no index at {index}", hint=_known_collections())
    holder = holding(start, named=named)
    if holder is not None:
        return [holder]
    below = [
        directory
        for directory, root in remembered().items()
        if root.is_relative_to(start) and _is_there(directory)
    ]
    return sorted(below) or _looked_for(start, notify)


def _looked_for(start: Path, notify: Callable[[str], None]) -> list[Path]:
    """The indexes below ``start`` that are on no list, their folders having been moved, say."""
    directories, unseen = look_below(start)
    found = [directory for directory in directories if _is_there(directory) and is_ours(directory)]
    left = f"; {unseen} were not looked at" if unseen else ""
    if not found:
        for directory in _around(start):
            raise IndexNotFound(
                f"the index at {directory} is another user's, and is not used by itself",
                hint=f"If you trust it, name it: --index {directory}",
            )
        if os.path.lexists(start / FOLDER):
            raise IndexNotFound(
                f"there is no index in {start / FOLDER}: its first run was interrupted, or it is "
                "something else",
                hint=f"Make it with: clipsearch index {start}",
            )
        raise IndexNotFound(
            f"no indexed folder holds {start} or lies below it{left}", hint=_known_collections()
        )
    for directory in found:
        remember(directory, directory.parent)
    roots = ", ".join(os.fspath(directory.parent) for directory in found)
    notify(printable(f"found indexed folders that were on no list: {roots}{left}"))
    return found


def remembered() -> dict[Path, Path]:
    """Index directory -> root, for every collection indexed by this user; may be out of date."""
    try:
        return _listed()
    except (OSError, ValueError):
        return {}


def _listed() -> dict[Path, Path]:
    """The same. Raises OSError if there is no list or it cannot be read, ValueError for garbage."""
    listed = json.loads(_list().read_text(encoding="utf-8", errors="surrogateescape"))
    try:
        return {Path(directory): Path(root) for directory, root in listed.items()}
    except (AttributeError, TypeError) as error:
        raise ValueError("it is not what clipsearch writes") from error


def remember(directory: Path, root: Path) -> None:
    """Put a collection on the list; one that cannot be written costs only the convenience."""
    if remembered().get(directory) == root:
        return
    # What another run has put there meanwhile must not be lost by writing the whole again.
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

    under: a folder of images; None means the current one. index: where the index lies, if it is
    named. The folder is relative to the root. A vector file that could not be used is written
    again afterwards, and ``notify`` is told. Raises UsageError, IndexNotFound, IndexUnreadable,
    CollectionGone.
    """
    if under is not None and not under.exists():
        raise UsageError(f"{under} does not exist{_meant(under)}", hint="Name an indexed folder.")
    start = (under or Path()).resolve()
    with ExitStack() as stack:
        stores = [
            stack.enter_context(Store.open(directory))
            for directory in find(start, index, notify, named=under is not None)
        ]
        for store in stores:
            store.require_root()
        if under is not None and index is not None:
            require_about(under, stores[0])
        yield stores, relative(start, stores[0].root)
        for store in stores:
            tell_of_left_out(store, notify)
        damaged = [store for store in stores if store.damage]
    for store in damaged:
        _heal(store, notify)


def protect(path: Path, stores: Sequence[Store] = ()) -> None:
    """Raise UsageError for what is never overwritten: an index's own files and indexed images.

    path: absolute, its links followed; it need not be there. stores: open ones, beside those that
    are known.
    """
    if any(folder.name == FOLDER for folder in path.parents) or _is_there(path.parent):
        raise UsageError(
            f"{path} lies in an index folder, where nothing else is written",
            hint="Name a file in another folder.",
        )
    if not path.is_file():
        return
    with ExitStack() as stack:
        open_now = {store.directory for store in stores}
        listed = remembered()
        for directory in dict.fromkeys([*listed, *_around(path.parent)]):
            if directory in open_now or not _is_there(directory):
                continue
            try:
                stores = [*stores, stack.enter_context(Store.open(directory))]
            except StoreError as error:
                if path.is_relative_to(listed.get(directory, directory.parent)):
                    raise UsageError(
                        f"cannot tell whether {path} is an indexed image: {error}",
                        hint="Name another file.",
                    ) from error
        for store in stores:
            if _holds_picture(store, path):
                raise UsageError(
                    f"{path} is an image of the collection {store.root}, and is never overwritten",
                    hint="Give the file another name.",
                )


def require_about(folder: Path, store: Store) -> None:
    """Raise UsageError where a folder and an index are named that have nothing to do with it."""
    start = folder.resolve()
    if not start.is_relative_to(store.root) and not store.root.is_relative_to(start):
        raise UsageError(
            f"{folder} is not in {store.root}, which is what the index at {store.directory} is of",
            hint="Name a folder of the collection, or leave out --index (CLIPSEARCH_INDEX).",
        )


def tell_of_left_out(store: Store, notify: Callable[[str], None]) -> None:
    """Tell of images that no search finds, since their embeddings are damaged."""
    if store.left_out:
        notify(
            f"cannot find {number_of(store.left_out, 'image')} of "
            f"{printable(os.fspath(store.root))}: damaged embedding; repair with: clipsearch "
            "verify --repair, then clipsearch index"
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
    images of which these were not read.
    """
    lines = []
    if only.paths is not None:
        indexed = sum(store.count(Filter(paths=only.paths)) for store in stores)
        listed = len(only.paths)
        if missing := listed - indexed:
            lines.append(f"not in the index: {missing:,} of {number_of(listed, 'listed file')}")
    if only.camera is None and only.near is None:
        return lines
    return lines + [
        f"left out {number_of(unseen, 'image')} of {printable(os.fspath(store.root))}, indexed "
        "before cameras and places were read; the next clipsearch index reads them"
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


def _holds_picture(store: Store, path: Path) -> bool:
    """Whether a file is in the index, under this path or under another that leads to it.

    A folder that is mounted twice, or a file system that ignores case, has several.
    """
    named = relative(path, store.root)
    if named and store.known(named):
        return True
    with path.open("rb") as file:
        alike = store.find_content(content_hash(file))
    others = (absolute(os.fsencode(store.root), other) for _, other in alike)
    return any(os.path.exists(other) and os.path.samefile(other, path) for other in others)


def _is_there(directory: Path) -> bool:
    """Whether there is an index that can be looked at; others' folders are no reason to stop."""
    with suppress(OSError):
        return Store.exists(directory)
    return False


def _around(folder: Path) -> Iterator[Path]:
    """The indexes of all collections that ``folder`` is or lies in, the nearest first."""
    elsewhere = {root: directory for directory, root in remembered().items()}
    for candidate in (folder, *folder.parents):
        for directory in filter(None, (candidate / FOLDER, elsewhere.get(candidate))):
            try:
                if Store.exists(directory):
                    yield directory
            except PermissionError:  # others' folders are no reason to stop
                if is_ours(directory):
                    raise


def _list() -> Path:
    return data_dir() / "collections.json"


def _known_collections() -> str:
    """What is known, or why nothing is; and the next step."""
    try:
        _listed()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return (
            f"The list of indexed folders, {_list()}, cannot be read ({error}). Name a folder with "
            "--under FOLDER; clipsearch index FOLDER puts it on the list again."
        )
    roots = sorted(
        os.fspath(root) for directory, root in remembered().items() if _is_there(directory)
    )
    if not roots:
        return "Nothing is indexed yet. Index a folder with: clipsearch index FOLDER"
    some = ", ".join(roots[:_NAMED])
    if len(roots) > _NAMED:
        more = len(roots) - _NAMED
        some += f" and {more:,} more, see clipsearch status {Path(roots[0]).anchor}"
    return (
        f"Name an indexed folder with --under FOLDER ({some}), or index another with: "
        "clipsearch index FOLDER"
    )


def _meant(folder: Path) -> str:
    """What a mistyped folder may have meant: one beside it."""
    try:
        with os.scandir(folder.parent) as entries:
            beside = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return ""
    return did_you_mean(folder.name, (name for name in beside if not name.startswith(".")))


def _heal(store: Store, notify: Callable[[str], None]) -> None:
    """Write a vector file again that a search could not use; the catalog has all that it needs.

    Nobody waits for clusters here: a large collection is searched exactly until the next `index`.
    """
    was_there = os.path.lexists(store.directory / VECTORS)  # a run that was interrupted wrote none
    where = printable(f"the vector file of {store.root} cannot be used ({store.damage})")
    if not (store.directory in remembered() or is_ours(store.directory)):
        notify(f"{where}; the catalog was searched instead")  # named to be read, and no more
        return
    try:
        with Store.open_for_writing(store.directory) as writer:
            if not writer.update_vector_index():
                return  # another process has been quicker
    except IndexLocked:
        return  # an index run is at work, and will write it
    except StoreError as error:
        why = printable(str(error))
        notify(f"{where} nor written again ({why}); the catalog was searched instead")
        return
    if was_there:
        notify(f"{where}; it was written again from the catalog")
