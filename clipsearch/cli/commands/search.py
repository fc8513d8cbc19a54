"""``clipsearch search``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, commands, say
from clipsearch.cli.commands.batch import answer_each
from clipsearch.cli.options import files
from clipsearch.cli.options.answer import AnswerOptions
from clipsearch.cli.options.filters import FilterOptions
from clipsearch.cli.options.groups import grouped
from clipsearch.cli.options.hits import HitOptions
from clipsearch.cli.options.query import QueryOptions
from clipsearch.cli.searching import opened, searcher_of, tell_left_out, tested_lines
from clipsearch.errors import ExitCode, UsageError

app = commands()


@app.command("search")
@grouped
def search_command(
    *,
    what: QueryOptions,
    answer: AnswerOptions,
    where: FilterOptions,
    show: HitOptions,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch",
            help="Read queries from standard input, one a line, and answer each with one JSON "
            "object.",
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
      clipsearch search "golden retriever" --image pool.jpg --not "a ball"
      clipsearch search "2:a castle" "snow" --like 17 --unlike 4
      clipsearch search --class lighthouse --max-false-alarm 0.01
      clipsearch search @defects/scratch
      clipsearch search "boats in a harbour" --under 2024 --json
      clipsearch search -0 "a cat" | xargs -0 cp -t cats/
      clipsearch search "sunset" -k 200 --html sunsets.html --open
      find . -newer list.txt -print0 | clipsearch search "sunset" --from0 -
      clipsearch search --batch -k 1 < queries.txt > answers.jsonl
    """
    answer.check()
    show.check()
    if where.from0 == "-" and (batch or what.reads_stdin):
        raise UsageError(
            "the query and --from0 cannot both be read from standard input",
            hint="Give one of them otherwise.",
        )
    if batch:
        _check_batch(what, show)
        with opened(where, index) as (stores, only):
            searcher = searcher_of(stores, device, require_tested=answer.require_tested)
            tell_left_out(stores, only)
            for line in tested_lines(searcher.collections):
                say(line)
            return answer_each(searcher, only, answer, show.show(), stores[0].spec.label)
    return _answer(what, answer, where, show, device, index)


def _answer(
    what: QueryOptions,
    answer: AnswerOptions,
    where: FilterOptions,
    show: HitOptions,
    device: str,
    index: Path | None,
) -> ExitCode:
    """Answer one query."""
    from clipsearch.cli.render.hits import no_match_line
    from clipsearch.domain import policy
    from clipsearch.records import EVERYTHING
    from clipsearch.search.answer import class_index, nearest_classes

    query = what.query()
    notes = filter(None, map(policy.language_note, query.texts))
    with opened(where, index) as (stores, only):
        files.keep_pictures(show.html, stores)
        files.keep_pictures(show.montage, stores)
        searcher = searcher_of(stores, device, require_tested=answer.require_tested)
        class_name = what.only_class()
        if class_name is not None:
            only = replace(only, of_class=class_index(searcher.collections, class_name))
        if not show.quiet:
            for note in notes:
                say(note)
        asked = searcher.ask(query, allow_out_of_domain=answer.allow_out_of_domain)
        (hits,) = answer.hits(searcher, [asked], only)
        rejected = [] if hits or answer.all else searcher.hits(asked, 1, only)
        tested = tested_lines(searcher.collections)
        if not show.quiet:
            tell_left_out(stores, only)
            for line in tested:
                say(line)
        classes = nearest_classes(searcher.collections, hits) if show.html is not None else []
    if not hits:
        if not show.quiet:
            # What is left out as the query itself may be all that passes.
            filtered = only != EVERYTHING and not asked.left_out
            say(no_match_line(rejected, filtered=filtered))
        return ExitCode.NO_MATCH
    show.write(hits, classes, query.said, stores[0].spec.label, tested)
    return ExitCode.OK


def _check_batch(what: QueryOptions, show: HitOptions) -> None:
    if what != QueryOptions():
        raise UsageError(
            "--batch reads its queries from standard input",
            hint="Leave the other queries out; a line may be @NAME, a saved query.",
        )
    pictures = show.html is not None or show.montage is not None or show.preview
    if show.null or show.quiet or show.template is not None or pictures:
        raise UsageError(
            "--batch prints JSON lines; it goes with no other way to print or show hits",
            hint="Leave --null, --format, --html, --montage, --preview and --quiet out.",
        )
