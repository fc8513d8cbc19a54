"""``clipsearch recipes``."""

from importlib import resources

from clipsearch.cli.app import commands
from clipsearch.errors import ExitCode

app = commands()


@app.command("recipes")
def recipes_command() -> int:
    """Print a page of things to do with jq, fzf, feh, rsync, cron and the like.

    \b
    Examples:
      clipsearch recipes | less
    """
    page = resources.files(__package__).joinpath("recipes.md").read_text(encoding="utf-8")
    print(page, end="")
    return ExitCode.OK
