"""Opens the collections that a command's options name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipsearch.cli.app import say
from clipsearch.cli.options.filters import FilterOptions
from clipsearch.records import Filter
from clipsearch.storage import known
from clipsearch.storage.catalog import Store


@contextmanager
def opened(options: FilterOptions, index: Path | None) -> Iterator[tuple[Sequence[Store], Filter]]:
    """The selected indexes, open for reading, and the filter for their images.

    Raises what ``known.opened`` raises, and UsageError for an invalid filter.
    """
    with known.opened(options.under, index, say) as (stores, under):
        yield stores, options.filter(under)


def tell_left_out(stores: Sequence[Store], only: Filter) -> None:
    """Report what a filter leaves out because the index lacks it or its metadata."""
    for line in known.left_out(stores, only):
        say(line)
