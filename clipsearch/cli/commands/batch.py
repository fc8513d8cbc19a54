"""``clipsearch search --batch``: many queries in one process."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clipsearch.cli.options.answer import AnswerOptions
from clipsearch.cli.options.query import text_parts
from clipsearch.cli.render.json_lines import json_line
from clipsearch.errors import ClipsearchError, ExitCode, Refused

if TYPE_CHECKING:
    from clipsearch.cli.render.hits import Show
    from clipsearch.records import Filter
    from clipsearch.search.query import Query, Searcher

_AT_ONCE = 256
"""Enough for the text tower to find texts of one length, and few enough to answer soon."""


def answer_each(
    searcher: "Searcher", only: "Filter", answer: AnswerOptions, show: "Show", model: str
) -> ExitCode:
    """Answer the queries on standard input, each with one JSON object on a line of its own.

    A line that cannot be answered has its reason in the object. 0 if any query has hits.
    """
    from clipsearch.cli.render.hits import hit_record

    found = False
    for lines in _lines():
        queries = [_query(line) for line in lines]
        good = [query for query in queries if not isinstance(query, ClipsearchError)]
        asked = iter(searcher.ask_each(good, allow_out_of_domain=answer.allow_out_of_domain))
        answers = [
            query if isinstance(query, ClipsearchError) else next(asked) for query in queries
        ]
        ready = [one for one in answers if not isinstance(one, ClipsearchError)]
        hits_of_ready = iter(answer.hits(searcher, ready, only) if ready else [])
        for line, one in zip(lines, answers, strict=True):
            failed = isinstance(one, ClipsearchError)
            hits = [] if failed else next(hits_of_ready)
            found = found or bool(hits)
            record = {
                "query": line.decode("utf-8", "replace"),
                "hits": [
                    hit_record(rank, hit, model, show) for rank, hit in enumerate(hits, start=1)
                ],
                "error": str(one) if failed else None,
                "refused": isinstance(one, Refused),
            }
            sys.stdout.buffer.write(json_line(record))
        sys.stdout.buffer.flush()
    return ExitCode.OK if found else ExitCode.NO_MATCH


def _query(line: bytes) -> "Query | ClipsearchError":
    from clipsearch.search.query import Query

    try:
        return Query(tuple(text_parts(os.fsdecode(line))))
    except ClipsearchError as error:
        return error


def _lines() -> Iterator[list[bytes]]:
    """The lines of standard input, as many at once as are there, and without waiting for more."""
    rest = b""
    while data := os.read(sys.stdin.fileno(), 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for start in range(0, len(lines), _AT_ONCE):
            yield lines[start : start + _AT_ONCE]
    if rest:
        yield [rest]
