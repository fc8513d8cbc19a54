"""``clipsearch search``."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, app, relative, say
from clipsearch.cli.choosing import ModelChoice, load_encoder, load_text_encoder, shared_model
from clipsearch.errors import ExitCode, IndexLocked, StoreError, UsageError

if TYPE_CHECKING:
    from clipsearch.output import Write
    from clipsearch.store import Store


@app.command("search")
def search_command(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUERY]",
            help="What to look for, in English; - reads it from standard input.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", metavar="PATH", help="Look for images like this one.", show_default=False
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("-k", "--count", min=1, metavar="N", help="At most so many hits.")
    ] = 10,
    under: Annotated[
        Path | None,
        typer.Option("--under", metavar="PATH", help="Only in this folder.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="End paths with NUL.")] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing; the exit code tells.")
    ] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Print the images that match best, best first.

    \b
    Examples:
      clipsearch search "a red bicycle"
      clipsearch search --image holiday/beach.jpg -k 5
      clipsearch search "boats in a harbour" --under 2024 --json
      clipsearch search -0 "a cat" | xargs -0 cp -t cats/
    """
    from clipsearch import collections, models, retrieval
    from clipsearch.store import Store

    if (query is None) == (image is None):
        raise UsageError(
            "search takes a text or --image PATH, one of the two",
            hint='For example: clipsearch search "a red bicycle"',
        )
    if under is not None and not under.exists():
        raise UsageError(f"{under} does not exist", hint="--under takes a folder.")
    start = (under or Path()).resolve()
    with ExitStack() as stack:
        stores = [
            stack.enter_context(Store.open(directory))
            for directory in collections.find(start, index)
        ]
        spec = shared_model(stores)
        choice = ModelChoice(None, None, device, None, offline=True)
        prefix = relative(start, stores[0].root)
        if under is not None and not prefix and not _holds(start, stores):
            raise UsageError(
                f"{under} is not in {stores[0].root}, which is what the index at {index} is of",
                hint="--under takes a folder of the collection.",
            )
        if image is not None:
            hits = retrieval.search_like(
                stores, image, lambda: load_encoder(models.locate(spec), choice), count, prefix
            )
        else:
            encoder = load_text_encoder(models.locate(spec), choice)
            (vector,) = encoder.encode_texts([_checked(query)])
            hits = retrieval.search(stores, vector, count, prefix)
        damaged = [store for store in stores if store.damage]
    for store in damaged:
        _heal(store)
    if not hits:
        if not quiet:
            say("no match")
        return ExitCode.NO_MATCH
    if not quiet:
        write = _writer(json, null)
        write(hits, spec.label, sys.stdout.buffer)
    return ExitCode.OK


def _checked(query: str | None) -> str:
    """The query's text, from standard input if it is ``-``."""
    try:
        text = sys.stdin.read() if query == "-" else query or ""
        text.encode()
    except UnicodeError as error:
        raise UsageError("the query is not valid text", hint="Use UTF-8.") from error
    if not text.strip():
        raise UsageError("the query is empty", hint="Say what to look for.")
    return text


def _writer(json: bool, null: bool) -> "Write":
    from clipsearch import output

    if json:
        return output.write_json_lines
    if null:
        return output.write_null
    return output.write_table if sys.stdout.isatty() else output.write_lines


def _holds(folder: Path, stores: "Sequence[Store]") -> bool:
    """Whether all these collections lie in ``folder``."""
    return all(store.root.is_relative_to(folder) for store in stores)


def _heal(store: "Store") -> None:
    """Write a vector file anew that a search could not use; the catalogue has all that it needs."""
    from clipsearch.store import Store

    where = f"the vector file of {store.root} cannot be used ({store.damage})"
    try:
        with Store.open_for_writing(store.directory) as writer:
            writer.update_vector_index()
    except IndexLocked:
        return  # an index run is at work, and will write it
    except StoreError as error:
        say(f"{where} nor written anew ({error}); the catalogue was searched instead")
        return
    say(f"{where}; it was written anew from the catalogue")
