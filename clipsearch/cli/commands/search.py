"""``clipsearch search``."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, commands, say
from clipsearch.cli.options.answer import AnswerOptions
from clipsearch.cli.options.filters import FilterOptions
from clipsearch.cli.options.groups import grouped
from clipsearch.cli.options.hits import HitOptions
from clipsearch.cli.options.query import QueryOptions
from clipsearch.cli.render.hits import Show, answer_lines, footer, hit_record
from clipsearch.cli.render.json_lines import json_line
from clipsearch.cli.searching import opened
from clipsearch.errors import ClipsearchError, ExitCode, Refused, UsageError
from clipsearch.models.load import Encoders
from clipsearch.search import answer as search
from clipsearch.search import saved
from clipsearch.search.explain import not_calibrated, summary
from clipsearch.search.query import Query, weight_note
from clipsearch.storage.collection import Collection
from clipsearch.storage.known import left_out, shared_model, tested_lines
from clipsearch.text import rounded

app = commands()

_AT_ONCE = 256
"""Queries per batch: enough to group texts of equal length, few enough to answer soon."""


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
            help="Read queries from standard input, one per line, and answer each with one JSON "
            "object.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Print the images that match a query, best first, or "no match" if none does.

    \b
    Examples:
      clipsearch search "a red bicycle"
      clipsearch search --image holiday/beach.jpg -k 5
      clipsearch search "golden retriever" --image pool.jpg --not "a ball"
      clipsearch search "^2:a castle" "snow" --like 17 --unlike 4
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
            hint="Give one of them in another way.",
        )
    if batch:
        _check_batch(what, show)
        if answer.explain:
            raise UsageError(
                "--batch cannot be combined with --explain",
                hint="Run the query that you want explained by itself.",
            )
        return _answer_batch(answer, where, show, device, index)
    return _answer_one(what, answer, where, show, device, index)


def _answer_one(
    what: QueryOptions,
    answer: AnswerOptions,
    where: FilterOptions,
    show: HitOptions,
    device: str,
    index: Path | None,
) -> ExitCode:
    tell = (lambda line: None) if show.quiet else say
    query = what.query()
    with opened(where, index) as (stores, only):
        show.check_files(stores)
        for note in search.notes(query):
            tell(note)
        collections = [Collection(store) for store in stores]
        encoders = Encoders.of(shared_model(stores), device)
        options = answer.options(
            only, what.only_class(), classes=show.html is not None or show.is_table
        )
        found = search.answer(collections, query, options, encoders)
        tested = tested_lines(collections)
        for line in left_out(stores, only):
            tell(line)
    unsure = [] if found.calibrated else not_calibrated(options)
    lines = [*unsure, *answer_lines(found, strict=answer.strict, all=answer.all)]
    for line in [*found.explanation, *lines]:
        tell(line)
    if not found.hits:
        show.write([], [], query.said, stores[0].spec.label, lines, tested, nearest=found.nearest)
        return ExitCode.NO_MATCH
    said = summary(found.judgment, found.matching, len(found.hits), all=answer.all)
    model, last = stores[0].spec.label, footer(found, all=answer.all)
    show.write(found.hits, found.classes, query.said, model, said, tested, footer=last)
    return ExitCode.OK


def _answer_batch(
    answer: AnswerOptions, where: FilterOptions, show: HitOptions, device: str, index: Path | None
) -> ExitCode:
    """Answer each query on standard input with one JSON object on its own line.

    If a query cannot be answered, its object gives the reason. The exit code is the first of these
    that any query has: hits, an error, a refusal, no match.
    """
    codes = {ExitCode.NO_MATCH}  # also the code of empty input
    told = False
    with opened(where, index) as (stores, only):
        model = stores[0].spec.label
        collections = [Collection(store) for store in stores]
        encoders = Encoders.of(shared_model(stores), device)
        options = answer.options(only, None, classes=False)
        calibrated = all(collection.is_calibrated for collection in collections)
        unsure = [] if calibrated else not_calibrated(options)
        for fact in [*left_out(stores, only), *unsure]:
            say(fact)
        for lines in _lines():
            queries = [_query(line) for line in lines]
            good = [query for query in queries if isinstance(query, Query)]
            texts = (text for query in good for text in query.texts)
            if not told and (note := next(filter(None, map(weight_note, texts)), None)):
                say(note)  # once: a file written for an earlier version has many such lines
                told = True
            answers = iter(search.answer_each(collections, good, options, encoders))
            for line, query in zip(lines, queries, strict=True):
                found = next(answers) if isinstance(query, Query) else query
                codes.add(_code(found))
                sys.stdout.buffer.write(json_line(_record(line, found, model, show.show())))
            sys.stdout.buffer.flush()
    first = (ExitCode.OK, ExitCode.ERROR, ExitCode.REFUSED, ExitCode.NO_MATCH)
    return next(code for code in first if code in codes)


def _code(found: search.Answer | ClipsearchError) -> ExitCode:
    """The exit code of a search for this query alone."""
    if isinstance(found, search.Answer):
        return ExitCode.OK if found.hits else ExitCode.NO_MATCH
    return ExitCode.REFUSED if isinstance(found, Refused) else ExitCode.ERROR


def _record(
    line: bytes, found: search.Answer | ClipsearchError, model: str, show: Show
) -> dict[str, object]:
    hits = found.hits if isinstance(found, search.Answer) else []
    judgment = found.judgment if isinstance(found, search.Answer) else None
    return {
        "query": line.decode("utf-8", "replace"),
        "calibrated": found.calibrated if isinstance(found, search.Answer) else None,
        "verdict": judgment.verdict if judgment else None,
        "rate": rounded(judgment.rate) if judgment else None,
        "matching": found.matching if isinstance(found, search.Answer) else 0,
        "hits": [hit_record(rank, hit, model, show) for rank, hit in enumerate(hits, 1)],
        "error": str(found) if isinstance(found, ClipsearchError) else None,
        "refused": isinstance(found, Refused),
    }


def _query(line: bytes) -> Query | ClipsearchError:
    try:
        return Query(saved.read(os.fsdecode(line)))
    except ClipsearchError as error:
        return error


def _lines() -> Iterator[list[bytes]]:
    """Batches of the lines that standard input has, without waiting for more."""
    rest = b""
    while data := os.read(sys.stdin.fileno(), 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for start in range(0, len(lines), _AT_ONCE):
            yield lines[start : start + _AT_ONCE]
    if rest:
        yield [rest]


def _check_batch(what: QueryOptions, show: HitOptions) -> None:
    if what != QueryOptions():
        raise UsageError(
            "--batch reads its queries from standard input",
            hint="Leave out the other queries. A line may be @NAME, a saved query.",
        )
    pictures = show.html is not None or show.montage is not None or show.preview
    if show.null or show.quiet or show.template is not None or pictures:
        raise UsageError(
            "--batch prints JSON lines and cannot print or show hits in any other way",
            hint="Leave out --null, --format, --html, --montage, --preview and --quiet.",
        )
