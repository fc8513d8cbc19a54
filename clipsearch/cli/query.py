"""``clipsearch query``: queries kept under a name."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli import completing
from clipsearch.cli.app import app, say
from clipsearch.cli.asking import QueryOptions
from clipsearch.cli.options import grouped
from clipsearch.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from clipsearch.queries import Part

_HELP = """Keep queries under a name, and look for them with search @NAME.

\b
Examples:
  clipsearch query save pool "golden retriever" --image pool.jpg
  clipsearch search @pool
  clipsearch query list
"""

query_app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(query_app, name="query")

_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]


@query_app.command("save")
@grouped
def save_command(*, name: _NameArgument, what: QueryOptions) -> int:
    """Keep a query under a name, for all your collections.

    \b
    Examples:
      clipsearch query save pool "golden retriever" --image pool.jpg --not "a ball"
      clipsearch search @pool
      clipsearch search 2:@pool "in the evening"
    """
    from clipsearch import saved_queries
    from clipsearch.domain import policy
    from clipsearch.queries import Query

    if what.only_class() is not None:
        raise UsageError(
            "--class beside a QUERY is a filter, and no part of it",
            hint="Leave it out here, and give it to search.",
        )
    query = what.query()
    for text in query.texts:
        policy.check(text)
    saved_queries.save(name, Query(tuple(map(_lasting, query.parts))))
    say(f"saved; look for it with: clipsearch search @{name}")
    return ExitCode.OK


@query_app.command("list")
def list_command(
    json: Annotated[bool, typer.Option("--json", help="One JSON object a query.")] = False,
) -> int:
    """Print the saved queries, one a line: the name, and what it stands for.

    \b
    Examples:
      clipsearch query list
    """
    from clipsearch import output, saved_queries

    for name, query in saved_queries.everything().items():
        if json:
            sys.stdout.buffer.write(output.json_line({"name": name, "query": query.said}))
        else:
            print(f"{name}\t{output.printable(query.said)}")
    return ExitCode.OK


@query_app.command("remove")
def remove_command(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Its name.", autocompletion=completing.saved_queries),
    ],
) -> int:
    """Forget a query.

    \b
    Examples:
      clipsearch query remove pool
    """
    from clipsearch import saved_queries

    saved_queries.remove(name)
    return ExitCode.OK


def _lasting(part: "Part") -> "Part":
    """The part as it is to be found from any folder. Raises UsageError for what cannot be."""
    if part.kind != "image":
        return part
    if not Path(part.what).is_file():
        raise UsageError(
            f"'{part.what}' is no file", hint="A saved query names pictures by their paths."
        )
    return replace(part, what=str(Path(part.what).absolute()))
