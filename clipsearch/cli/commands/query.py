"""``clipsearch query``: saved queries."""

import sys
from typing import Annotated

import typer

from clipsearch.cli import completion
from clipsearch.cli.app import commands, say
from clipsearch.cli.options.groups import grouped
from clipsearch.cli.options.query import QueryOptions
from clipsearch.cli.render.json_lines import json_line
from clipsearch.domain import policy
from clipsearch.errors import ExitCode, UsageError
from clipsearch.search import saved
from clipsearch.text import printable

_HELP = """Save queries under a name, and run them with clipsearch search @NAME.

\b
Examples:
  clipsearch query save pool "golden retriever" --image pool.jpg
  clipsearch search @pool
  clipsearch query list
"""

app = commands(_HELP)

_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of the query.")]


@app.command("save")
@grouped
def save_command(*, name: _NameArgument, what: QueryOptions) -> int:
    """Save a query under a name, for use in all your collections.

    \b
    Examples:
      clipsearch query save pool "golden retriever" --image pool.jpg --not "a ball"
      clipsearch search @pool
      clipsearch search ^2:@pool "in the evening"
    """
    if what.only_class() is not None:
        raise UsageError(
            "--class with a QUERY is a filter, which is not saved",
            hint="Leave it out here, and add it to clipsearch search.",
        )
    query = what.query()
    for text in query.texts:
        policy.check(text)
    saved.save(name, saved.lasting(query))
    say(f"saved; run it with: clipsearch search @{name}")
    return ExitCode.OK


@app.command("list")
def list_command(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per query.")] = False,
) -> int:
    """Print the saved queries, one per line: the name and the query.

    \b
    Examples:
      clipsearch query list
    """
    for name, query in saved.everything().items():
        if json:
            sys.stdout.buffer.write(json_line({"name": name, "query": query.said}))
        else:
            print(f"{name}\t{printable(query.said)}")
    return ExitCode.OK


@app.command("remove")
def remove_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The name of the query.", autocompletion=completion.saved_queries
        ),
    ],
) -> int:
    """Remove a saved query.

    \b
    Examples:
      clipsearch query remove pool
    """
    saved.remove(name)
    return ExitCode.OK
