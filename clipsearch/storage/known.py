"""Find the indexes, next to their images or elsewhere, and open the ones that a command needs.

A collection is the images under one indexed folder. Its index is in ``.clipsearch`` inside that
folder unless another place was named. A short list in the user's data directory remembers every
indexed folder, so that a search that starts above or next to one finds it.
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
"""The most indexed folders to name in a hint."""

_PATIENCE = 10.0
"""Seconds to wait for other processes, which write to the list only briefly."""


def directory_for(root: Path, index: Path | None) -> Path:
    """Where the index of ``root`` is or will be; ``index`` may be the folder that contains it."""
    if index is None:
        return root / FOLDER
    directory = index.absolute()
    has_one = not Store.exists(directory) and Store.exists(directory / FOLDER)
    return directory / FOLDER if has_one else directory


def require_own_folder(directory: Path) -> None:
    """Raise UsageError for a folder with other files in it: no index may be created there."""
    if Store.exists(directory) or not directory.is_dir():
        return
    others = sorted(set(os.listdir(directory)) - BEGUN)
    if others:
        raise UsageError(
            f"{directory} has other files in it, such as {others[0]}; an index needs a folder of "
            "its own",
            hint=f"Name an empty or new folder: --index {directory / 'clipsearch-index'}",
        )


def holding(folder: Path, *, named: bool = False) -> Path | None:
    """The index of the nearest collection that ``folder`` is or is inside of.

    Another user's index is not used automatically: anyone who can write to /tmp could put one
    there, and everything below would be indexed into it. It is used only if this user has indexed
    with it before, or ``named`` exactly this folder.
    """
    listed = remembered()
    for directory in _around(folder):
        if directory in listed or (named and directory == folder / FOLDER) or is_ours(directory):
            return directory
    return None


def is_ours(directory: Path) -> bool:
    """Whether an index folder belongs to this user or to root, who can write anywhere anyway.

    Under sudo, as in git, the calling user's folders also count. On systems without users, all
    folders count. Raises OSError if it is missing.
    """
    if not hasattr(os, "geteuid"):
        return True
    ours = {0, os.geteuid()}
    if os.geteuid() == 0:
        with suppress(ValueError):
            ours.add(int(os.environ.get("SUDO_UID", "")))
    return os.lstat(directory).st_uid in ours  # for a link, the owner of the link counts


def find(
    start: Path,
    index: Path | None,
    notify: Callable[[str], None] = lambda message: None,
    *,
    named: bool = False,
) -> list[Path]:
    """The indexes that a search from ``start`` uses.

    That is ``index`` if it is given; else the collection that contains ``start`` (see
    ``holding``); else every remembered one below it; else those found by a bounded look below it,
    which are remembered and reported to ``notify``. Raises IndexNotFound, listing known folders.
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
    """The indexes below ``start`` that are on no list, for example because they were moved."""
    directories, unseen = look_below(start)
    found = [directory for directory in directories if _is_there(directory) and is_ours(directory)]
    left = f"; {unseen} were not searched" if unseen else ""
    if not found:
        for directory in _around(start):
            raise IndexNotFound(
                f"the index at {directory} belongs to another user, and is not used automatically",
                hint=f"If you trust it, name it: --index {directory}",
            )
        if os.path.lexists(start / FOLDER):
            raise IndexNotFound(
                f"there is no index in {start / FOLDER}: its first run was interrupted, or it is "
                "something else",
                hint=f"Create one with: clipsearch index {start}",
            )
        raise IndexNotFound(
            f"no indexed folder contains {start} or is below it{left}", hint=_known_collections()
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
    """The same. Raises OSError if the list is missing or unreadable, ValueError for garbage."""
    listed = json.loads(_list().read_text(encoding="utf-8", errors="surrogateescape"))
    try:
        return {Path(directory): Path(root) for directory, root in listed.items()}
    except (AttributeError, TypeError) as error:
        raise ValueError("clipsearch did not write it") from error


def remember(directory: Path, root: Path) -> None:
    """Put a collection on the list; a list that cannot be written is not an error."""
    if remembered().get(directory) == root:
        return
    # Read again under the lock, so that entries from other runs are not lost.
    with suppress(OSError), held(_list(), _PATIENCE):
        listed = {known: at for known, at in remembered().items() if _is_there(known)}
        listed[directory] = root
        texts = {os.fspath(known): os.fspath(at) for known, at in listed.items()}
        write_whole(_list(), json.dumps(texts, indent=1).encode())


@contextmanager
def opened(
    under: Path | None, index: Path | None, notify: Callable[[str], None]
) -> Iterator[tuple[Sequence[Store], bytes]]:
    """Open the indexes to use for reading; also give the folder inside them to restrict to.

    under: a folder of images (default: the current one). index: the location of the index, if
    named. The returned folder is relative to the root. A vector file that could not be used is
    written again afterwards and reported to ``notify``. Raises UsageError, IndexNotFound,
    IndexUnreadable, CollectionGone.
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
    """Raise UsageError for files that must not be overwritten: index files and indexed images.

    path: absolute, with links resolved; it need not exist. stores: open ones, in addition to the
    known ones.
    """
    if any(folder.name == FOLDER for folder in path.parents) or _is_there(path.parent):
        raise UsageError(
            f"{path} is in an index folder, where no other files are written",
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
    """Raise UsageError if a named folder has nothing to do with the named index."""
    start = folder.resolve()
    if not start.is_relative_to(store.root) and not store.root.is_relative_to(start):
        raise UsageError(
            f"{folder} is not in {store.root}, the folder of the index at {store.directory}",
            hint="Name a folder of the collection, or leave out --index (CLIPSEARCH_INDEX).",
        )


def tell_of_left_out(store: Store, notify: Callable[[str], None]) -> None:
    """Report images that no search finds because their embeddings are damaged."""
    if store.left_out:
        notify(
            f"cannot find {number_of(store.left_out, 'image')} of "
            f"{printable(os.fspath(store.root))}: damaged embedding; repair with: clipsearch "
            "verify --repair, then clipsearch index"
        )


def shared_model(stores: Sequence[Store]) -> ModelSpec:
    """The model that all these indexes share: scores of different models are not comparable.

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
    """Images that a filter leaves out because too little is known, one line per reason.

    For a list of files: those that are not in the index. For a filter by camera or place: the
    images whose camera and place were not read yet.
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
    """Whether answers about each collection were tested, one line each."""
    lines = [tested_line(collection) for collection in collections]
    if len(lines) == 1:
        return lines
    roots = (printable(os.fspath(collection.store.root)) for collection in collections)
    return [f"{root}: {line}" for root, line in zip(roots, lines, strict=True)]


def _holds_picture(store: Store, path: Path) -> bool:
    """Whether a file is in the index, under this path or under another path to it.

    A file has several paths if a folder is mounted twice or the file system ignores case.
    """
    named = relative(path, store.root)
    if named and store.known(named):
        return True
    with path.open("rb") as file:
        alike = store.find_content(content_hash(file))
    others = (absolute(os.fsencode(store.root), other) for _, other in alike)
    return any(os.path.exists(other) and os.path.samefile(other, path) for other in others)


def _is_there(directory: Path) -> bool:
    """Whether there is an accessible index; another user's folder must not stop the search."""
    with suppress(OSError):
        return Store.exists(directory)
    return False


def _around(folder: Path) -> Iterator[Path]:
    """The indexes of all collections that ``folder`` is or is inside of, nearest first."""
    elsewhere = {root: directory for directory, root in remembered().items()}
    for candidate in (folder, *folder.parents):
        for directory in filter(None, (candidate / FOLDER, elsewhere.get(candidate))):
            try:
                if Store.exists(directory):
                    yield directory
            except PermissionError:  # another user's folder must not stop the search
                if is_ours(directory):
                    raise


def _list() -> Path:
    return data_dir() / "collections.json"


def _known_collections() -> str:
    """The indexed folders, or why none are known, and the next step."""
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
    """A suggestion for a mistyped folder: one next to it."""
    try:
        with os.scandir(folder.parent) as entries:
            beside = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return ""
    return did_you_mean(folder.name, (name for name in beside if not name.startswith(".")))


def _heal(store: Store, notify: Callable[[str], None]) -> None:
    """Write a vector file that a search could not use again; the catalog has all the data.

    Does not wait for clustering: a large collection is searched exactly until the next `index`.
    """
    was_there = os.path.lexists(store.directory / VECTORS)  # an interrupted run wrote none
    where = printable(f"the vector file of {store.root} cannot be used ({store.damage})")
    if not (store.directory in remembered() or is_ours(store.directory)):
        notify(f"{where}; the catalog was searched instead")  # it was named only for reading
        return
    try:
        with Store.open_for_writing(store.directory) as writer:
            if not writer.update_vector_index():
                return  # another process was faster
    except IndexLocked:
        return  # an index run is in progress, and will write it
    except StoreError as error:
        why = printable(str(error))
        notify(f"{where} and cannot be rewritten ({why}); the catalog was searched instead")
        return
    if was_there:
        notify(f"{where}; it was rewritten from the catalog")
