"""``clipsearch help``: the pages in ``cli/help``, one file per topic."""

from typing import Annotated

import typer

from clipsearch.cli import completion
from clipsearch.cli.app import commands
from clipsearch.cli.commands import COMMANDS
from clipsearch.cli.help import pages
from clipsearch.errors import ExitCode, UsageError
from clipsearch.text import did_you_mean, shortened

app = commands()


@app.command("help")
def help_command(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="[TOPIC]",
            help="A topic (default: list all topics).",
            autocompletion=completion.topics,
            show_default=False,
        ),
    ] = None,
) -> int:
    """Explain a topic: scores, models, recipes and more.

    For the options of a command, see clipsearch COMMAND --help.

    \b
    Examples:
      clipsearch help
      clipsearch help scores
      clipsearch help recipes | less
    """
    found = pages()
    if topic is None:
        width = max(map(len, found))
        for name, page in found.items():
            print(f"{name:<{width}}  {_title(page)}")
    elif topic in found:
        print(found[topic], end="")
    else:
        see = f"clipsearch {topic} --help" if topic in COMMANDS else "clipsearch help"
        raise UsageError(
            f"there is no help topic '{shortened(topic)}'{did_you_mean(topic, found)}",
            hint=f"See: {see}",
        )
    return ExitCode.OK


def _title(page: str) -> str:
    """The part of the first line after the topic's name: ``# scores: what a hit means``."""
    return page.partition("\n")[0].partition(": ")[2]
