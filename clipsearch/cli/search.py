"""``clipsearch search``."""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, app, say
from clipsearch.cli.choosing import ModelChoice, load_encoder, load_text_encoder, shared_model
from clipsearch.cli.filters import (
    AfterOption,
    BeforeOption,
    From0Option,
    MinHeightOption,
    MinWidthOption,
    NameOption,
    TypeOption,
    chosen,
)
from clipsearch.cli.showing import (
    HtmlOption,
    MontageOption,
    OpenOption,
    PreviewOption,
    Showing,
)
from clipsearch.errors import ExitCode, IndexLocked, StoreError, UsageError

if TYPE_CHECKING:
    from clipsearch.output import Write
    from clipsearch.records import Hit, QueryKind, TextEncoder, Vectors
    from clipsearch.store import Store


@app.command("search")
def search_command(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUERY]",
            help="What to look for, in English; @PROBE or @PROBE/CLASS for what a probe has "
            "learned; - reads it from standard input.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", metavar="PATH", help="Look for images like this one.", show_default=False
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Look for one of the domain's classes, by all its prompts.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("-k", "--count", min=1, metavar="N", help="At most so many hits.")
    ] = 10,
    under: Annotated[
        Path | None,
        typer.Option("--under", metavar="PATH", help="Only in this folder.", show_default=False),
    ] = None,
    name: NameOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    min_width: MinWidthOption = 0,
    min_height: MinHeightOption = 0,
    types: TypeOption = None,
    from0: From0Option = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Read every embedding, where a large collection is read in part."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="End paths with NUL.")] = False,
    template: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="TEMPLATE",
            help="A line a hit like '{score:.3f}\\t{path}'; the fields are the keys of --json.",
            show_default=False,
        ),
    ] = None,
    absolute: Annotated[
        bool | None,
        typer.Option(
            "--absolute/--relative",
            help="Paths from the root, or from the current folder; by default from the current "
            "folder where it holds them.",
            show_default=False,
        ),
    ] = None,
    html: HtmlOption = None,
    open_page: OpenOption = False,
    montage: MontageOption = None,
    preview: PreviewOption = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing; the exit code tells.")
    ] = False,
    max_false_alarm: Annotated[
        float,
        typer.Option(
            "--max-false-alarm",
            metavar="RATE",
            help="Leave out hits with scores that more than this share of unrelated queries "
            "reach here.",
        ),
    ] = 0.05,
    all: Annotated[
        bool, typer.Option("--all", help="Print the best hits, however poor they are.")
    ] = False,
    allow_out_of_domain: Annotated[
        bool,
        typer.Option(
            "--allow-out-of-domain",
            help="Answer even if the text has nothing to do with the domain.",
        ),
    ] = False,
    require_tested: Annotated[
        bool,
        typer.Option(
            "--require-tested",
            help="Refuse (exit code 3) unless the model met the domain's pass marks: see "
            "clipsearch evaluate.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Print the images that match best, best first; or "no match", if none does.

    \b
    Examples:
      clipsearch search "a red bicycle"
      clipsearch search --image holiday/beach.jpg -k 5
      clipsearch search --class lighthouse --max-false-alarm 0.01
      clipsearch search @defects/scratch
      clipsearch search "boats in a harbour" --under 2024 --json
      clipsearch search -0 "a cat" | xargs -0 cp -t cats/
      clipsearch search "sunset" -k 200 --html sunsets.html --open
      find . -newer list.txt -print0 | clipsearch search "sunset" --from0 -
    """
    from clipsearch import collections, models, output, retrieval
    from clipsearch.assurance import Assurance
    from clipsearch.domain import policy
    from clipsearch.images import relative
    from clipsearch.records import EVERYTHING, Filter
    from clipsearch.store import Store

    if (query is not None) + (image is not None) + (class_name is not None) != 1:
        raise UsageError(
            "search takes a text, --image PATH or --class NAME, one of the three",
            hint='For example: clipsearch search "a red bicycle"',
        )
    if not 0 < max_false_alarm <= 1:
        raise UsageError(
            f"--max-false-alarm {max_false_alarm:g} is no share of queries",
            hint="It is greater than 0 and at most 1; --all is the same as 1.",
        )
    write_hits = _writer(json, null, template, absolute)
    showing = Showing(html, open_page, montage, preview)
    showing.check()
    if query == from0 == "-":
        raise UsageError(
            "the query and --from0 cannot both be read from standard input",
            hint="Give one of them otherwise.",
        )
    if under is not None and not under.exists():
        raise UsageError(f"{under} does not exist", hint="--under takes a folder.")
    start = (under or Path()).resolve()
    with ExitStack() as stack:
        stores = [
            stack.enter_context(Store.open(directory))
            for directory in collections.find(start, index)
        ]
        for store in stores:
            store.require_root()
        spec = shared_model(stores)
        choice = ModelChoice(device=device, offline=True)
        prefix = relative(start, stores[0].root)
        if under is not None and not prefix and not _holds(start, stores):
            raise UsageError(
                f"{under} is not in {stores[0].root}, which is what the index at {index} is of",
                hint="--under takes a folder of the collection.",
            )
        only = chosen(prefix, name, after, before, min_width, min_height, types, from0)
        assured = [Assurance(store) for store in stores]
        if require_tested:
            for collection in assured:
                collection.require_tested()

        def text_encoder() -> "TextEncoder":
            return load_text_encoder(models.locate(spec), choice)

        kind: QueryKind = "text"
        if image is not None:
            kind = "image"
            vector = retrieval.image_vector(
                stores, image, lambda: load_encoder(models.locate(spec), choice)
            )
        elif class_name is not None:
            vector = retrieval.class_vector(assured, class_name, text_encoder)
        elif (text := _checked(query)).startswith("@"):
            kind = "probe"
            vector = _probe_vector(stores, text.strip())
        else:
            if (note := policy.language_note(text)) and not quiet:
                say(note)
            vector = retrieval.text_vector(
                assured, text, text_encoder, allow_out_of_domain=allow_out_of_domain
            )

        def best(k: int, rate: float) -> "list[Hit]":
            return retrieval.search(
                assured,
                vector,
                k,
                only,
                kind=kind,
                max_false_alarm=rate,
                without=image,
                exact=exact,
            )

        hits = best(count, 1.0 if all else max_false_alarm)
        rejected = [] if hits or all else best(1, 1.0)
        filtered = only != EVERYTHING
        if only.paths is not None and not quiet:
            indexed = sum(store.count(Filter(paths=only.paths)) for store in stores)
            if indexed < len(only.paths):
                missing = len(only.paths) - indexed
                say(f"{missing} of {len(only.paths)} listed files are not in the index")
        tested = [output.tested_line(collection) for collection in assured]
        if len(assured) > 1:
            roots = (output.printable(os.fspath(collection.store.root)) for collection in assured)
            tested = [f"{root}: {line}" for root, line in zip(roots, tested, strict=True)]
        if not quiet:
            for line in tested:
                say(line)
        classes = retrieval.nearest_classes(assured, hits) if html is not None else []
        damaged = [store for store in stores if store.damage]
    for store in damaged:
        _heal(store)
    if not hits:
        if not quiet:
            say(output.no_match_line(rejected, filtered=filtered))
        return ExitCode.NO_MATCH
    if not quiet:
        write_hits(hits, spec.label, sys.stdout.buffer)
    asked = query or class_name or os.fspath(image or "")
    showing.show(hits, classes, asked, spec.label, tested)
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


def _probe_vector(stores: "Sequence[Store]", text: str) -> "Vectors":
    from clipsearch import probes

    if len(stores) > 1:
        raise UsageError(
            f"there are {len(stores)} indexed folders here, and a probe belongs to one",
            hint="Say which one you mean with --under FOLDER.",
        )
    return probes.query(stores[0], text.removeprefix("@"))


def _writer(json: bool, null: bool, template: str | None, absolute: bool | None) -> "Write":
    """How hits are printed. Raises UsageError for a template that is none."""
    from clipsearch import output

    if json and (null or template is not None):
        raise UsageError(
            "--json says how hits are printed; it goes with neither --null nor --format",
            hint="Choose one of them.",
        )
    shows = {None: output.shown_path, True: output.absolute_path, False: output.relative_path}
    show, end = shows[absolute], b"\0" if null else b"\n"
    if json:
        return output.write_json_lines(show)
    if template is not None:
        return output.write_template(template, show, end)
    if sys.stdout.isatty() and not null:
        return output.write_table(show)
    return output.write_paths(show, end)


def _holds(folder: Path, stores: "Sequence[Store]") -> bool:
    """Whether all these collections lie in ``folder``."""
    return all(store.root.is_relative_to(folder) for store in stores)


def _heal(store: "Store") -> None:
    """Write a vector file anew that a search could not use; the catalogue has all that it needs.

    Nobody waits for clusters here: a large collection is searched exactly until the next `index`.
    """
    from clipsearch.store import Store

    where = f"the vector file of {store.root} cannot be used ({store.damage})"
    try:
        with Store.open_for_writing(store.directory) as writer:
            if not writer.update_vector_index():
                return  # another process has been quicker
    except IndexLocked:
        return  # an index run is at work, and will write it
    except StoreError as error:
        say(f"{where} nor written anew ({error}); the catalogue was searched instead")
        return
    say(f"{where}; it was written anew from the catalogue")
