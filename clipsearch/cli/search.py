"""``clipsearch search``."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, app, say
from clipsearch.cli.choosing import ModelChoice, load_encoder, load_text_encoder, shared_model
from clipsearch.cli.filters import FilterOptions
from clipsearch.cli.options import grouped
from clipsearch.cli.searching import opened
from clipsearch.cli.writing import HitOptions
from clipsearch.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from clipsearch.records import Hit, QueryKind, TextEncoder, Vectors
    from clipsearch.store import Store


@app.command("search")
@grouped
def search_command(
    *,
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
    where: FilterOptions,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Read every embedding, where a large collection is read in part."
        ),
    ] = False,
    show: HitOptions,
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
    from clipsearch import models, output, retrieval
    from clipsearch.assurance import Assurance
    from clipsearch.domain import policy
    from clipsearch.records import EVERYTHING, Filter

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
    show.check()
    if query == where.from0 == "-":
        raise UsageError(
            "the query and --from0 cannot both be read from standard input",
            hint="Give one of them otherwise.",
        )
    with opened(where, index) as (stores, only):
        spec = shared_model(stores)
        choice = ModelChoice(device=device, offline=True)
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
            if (note := policy.language_note(text)) and not show.quiet:
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
        if only.paths is not None and not show.quiet:
            indexed = sum(store.count(Filter(paths=only.paths)) for store in stores)
            if indexed < len(only.paths):
                missing = len(only.paths) - indexed
                say(f"{missing} of {len(only.paths)} listed files are not in the index")
        tested = [output.tested_line(collection) for collection in assured]
        if len(assured) > 1:
            roots = (output.printable(os.fspath(collection.store.root)) for collection in assured)
            tested = [f"{root}: {line}" for root, line in zip(roots, tested, strict=True)]
        if not show.quiet:
            for line in tested:
                say(line)
    if not hits:
        if not show.quiet:
            say(output.no_match_line(rejected, filtered=filtered))
        return ExitCode.NO_MATCH
    show.write(hits, query or class_name or os.fspath(image or ""), spec.label, tested)
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
