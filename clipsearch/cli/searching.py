"""The collections that a search is about, opened, and made whole again if one was not."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.cli.app import say
from clipsearch.cli.options.filters import FilterOptions
from clipsearch.cli.options.model import (
    load_encoder,
    load_text_encoder,
    shared_model,
)
from clipsearch.errors import IndexLocked, StoreError, UsageError
from clipsearch.models.choice import ModelChoice
from clipsearch.storage.collection import tested_line
from clipsearch.text import printable

if TYPE_CHECKING:
    from clipsearch.records import Filter
    from clipsearch.search.query import Searcher
    from clipsearch.storage.catalog import Store
    from clipsearch.storage.collection import Collection


@contextmanager
def opened(
    options: FilterOptions, index: Path | None
) -> "Iterator[tuple[Sequence[Store], Filter]]":
    """The indexes that are meant, open for reading, and the filter for their pictures.

    A vector file that could not be used is written anew afterwards. Raises UsageError,
    IndexNotFound, IndexUnreadable.
    """
    from clipsearch.paths import relative
    from clipsearch.storage import known
    from clipsearch.storage.catalog import Store

    start = options.start()
    with ExitStack() as stack:
        stores = [
            stack.enter_context(Store.open(directory)) for directory in known.find(start, index)
        ]
        for store in stores:
            store.require_root()
        prefix = relative(start, stores[0].root)
        if options.under is not None and not prefix and not _holds(start, stores):
            raise UsageError(
                f"{options.under} is not in {stores[0].root}, which is what the index at {index} "
                "is of",
                hint="Name a folder of the collection.",
            )
        yield stores, options.filter(prefix)
        damaged = [store for store in stores if store.damage]
    for store in damaged:
        _heal(store)


def tell_left_out(stores: "Sequence[Store]", only: "Filter") -> None:
    """Say what a filter leaves out for want of knowing it.

    Of a list of files those that the index does not have; of a filter by camera or place the
    pictures of which these were not read.
    """
    from clipsearch.records import Filter
    from clipsearch.text import printable

    if only.paths is not None:
        indexed = sum(store.count(Filter(paths=only.paths)) for store in stores)
        if indexed < len(only.paths):
            missing = len(only.paths) - indexed
            say(f"{missing} of {len(only.paths)} listed files are not in the index")
    if only.camera is None and only.near is None:
        return
    for store in stores:
        if unseen := store.unseen():
            say(
                f"{unseen} pictures of {printable(os.fspath(store.root))} were indexed before "
                "cameras and places were read, and are left out; the next clipsearch index "
                "reads them"
            )


def searcher_of(
    stores: "Sequence[Store]", device: str, *, require_tested: bool = False
) -> "Searcher":
    """Ask these collections, which must share a model. Raises UsageError, NotTested."""
    from clipsearch.models import registry
    from clipsearch.search.query import Searcher
    from clipsearch.storage.collection import Collection

    spec = shared_model(stores)
    choice = ModelChoice(device=device, offline=True)
    collections = [Collection(store) for store in stores]
    if require_tested:
        for collection in collections:
            collection.require_tested()
    return Searcher(
        collections,
        lambda: load_text_encoder(registry.locate(spec), choice),
        lambda: load_encoder(registry.locate(spec), choice),
    )


def tested_lines(collections: "Sequence[Collection]") -> list[str]:
    """Whether answers about each collection were tested, a line each."""

    lines = [tested_line(collection) for collection in collections]
    if len(lines) == 1:
        return lines
    roots = (printable(os.fspath(collection.store.root)) for collection in collections)
    return [f"{root}: {line}" for root, line in zip(roots, lines, strict=True)]


def _holds(folder: Path, stores: "Sequence[Store]") -> bool:
    """Whether all these collections lie in ``folder``."""
    return all(store.root.is_relative_to(folder) for store in stores)


def _heal(store: "Store") -> None:
    """Write a vector file anew that a search could not use; the catalogue has all that it needs.

    Nobody waits for clusters here: a large collection is searched exactly until the next `index`.
    """
    from clipsearch.storage.catalog import Store
    from clipsearch.text import printable

    where = printable(f"the vector file of {store.root} cannot be used ({store.damage})")
    try:
        with Store.open_for_writing(store.directory) as writer:
            if not writer.update_vector_index():
                return  # another process has been quicker
    except IndexLocked:
        return  # an index run is at work, and will write it
    except StoreError as error:
        why = printable(str(error))
        say(f"{where} nor written anew ({why}); the catalogue was searched instead")
        return
    say(f"{where}; it was written anew from the catalogue")
