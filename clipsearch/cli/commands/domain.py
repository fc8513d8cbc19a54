"""``clipsearch domain init|show|check``."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli import completion
from clipsearch.cli.app import DeviceOption, IndexOption, OfflineOption, commands, say
from clipsearch.cli.options import files
from clipsearch.cli.options.collection import UnderOption, directory_of_one
from clipsearch.cli.options.model import model_option
from clipsearch.cli.render.domain import domain_text, gate_record, gate_text
from clipsearch.cli.render.json_lines import json_line
from clipsearch.domain import taxonomy
from clipsearch.domain.gate import MOST_REFUSED, Gate
from clipsearch.domain.pass_marks import REFUSED
from clipsearch.errors import ExitCode, IndexNotFound, UsageError
from clipsearch.models.choice import ModelChoice
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.text import did_you_mean

_HELP = """Create, show or check a domain: the classes that images are searched and tested with.

\b
Examples:
  clipsearch domain show
  clipsearch domain init parts.toml
  clipsearch index ./parts --domain parts.toml
"""

app = commands(_HELP)


@app.command("init")
def init_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    copy: Annotated[
        str | None,
        typer.Option(
            "--copy",
            autocompletion=completion.domains,
            metavar="NAME",
            help="Start from a built-in domain.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Write a small, commented domain file to start from.

    \b
    Examples:
      clipsearch domain init parts.toml
      clipsearch domain init mine.toml --copy everyday
    """
    if copy is not None and copy not in taxonomy.shipped():
        raise UsageError(
            f"there is no built-in domain '{copy}'{did_you_mean(copy, taxonomy.shipped())}",
            hint=f"Built-in domains: {', '.join(taxonomy.shipped())}.",
        )
    if os.path.lexists(file):
        raise UsageError(
            f"{file} already exists", hint="Name another file, or remove this one first."
        )
    files.check(file, option="domain init")
    files.write(file, taxonomy.source(copy) if copy else taxonomy.starter())
    say(f"edit it, then check it with: clipsearch domain check {file}")
    return ExitCode.OK


@app.command("show")
def show_command(
    domain: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|NAME]",
            autocompletion=completion.domains,
            help="A domain (default: the domain of the index here, or everyday).",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole domain as JSON.")] = False,
    under: UnderOption = None,
    index: IndexOption = None,
) -> int:
    """Print a domain's classes, one per line with synonyms, or the whole domain as JSON.

    \b
    Examples:
      clipsearch domain show
      clipsearch domain show parts.toml --json
    """
    if domain is not None and under is not None:
        raise UsageError("a domain and --under cannot be combined", hint="Choose one of them.")
    if domain is not None:
        shown = taxonomy.load(domain)
    else:
        try:
            directory = directory_of_one([], under, index)
        except IndexNotFound:
            if under is not None or index is not None:
                raise
            shown = taxonomy.load(taxonomy.DEFAULT)
        else:
            with Store.open(directory) as store:
                shown = Collection(store).domain
    if json:
        sys.stdout.buffer.write(shown.to_json().encode() + b"\n")
    else:
        print(domain_text(shown))
    return ExitCode.OK


@app.command("check")
def check_command(
    domain: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME",
            autocompletion=completion.domains,
            help="A domain file, or the name of a built-in domain.",
        ),
    ],
    model: Annotated[
        str | None,
        model_option(
            "The model to check with, as for clipsearch index (default: the one that a new "
            "index would use).",
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained",
            metavar="TAG|FILE",
            help="Weights for the model, as for clipsearch index.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
) -> int:
    """Check a domain file, and measure how often queries are wrongly refused or accepted.

    The rates are measured on the domain's own examples. Exit code 1 if more in-domain examples
    are refused than the pass marks allow.

    \b
    Examples:
      clipsearch domain check parts.toml
      clipsearch domain check everyday --model pocket --json
    """
    checked = taxonomy.load(domain)
    choice = ModelChoice(model, pretrained, device, offline=offline)
    files = choice.files(say)
    errors = Gate.build(checked, choice.encoders(files).text).errors()
    if json:
        record = gate_record(checked, files.spec.label, errors)
        sys.stdout.buffer.write(json_line(record))
    else:
        print(gate_text(checked, files.spec.label, errors))
    most = checked.pass_marks.get(REFUSED, MOST_REFUSED)
    refused = errors.refused.value if errors.refused else 0.0
    return ExitCode.OK if refused <= most else ExitCode.NO_MATCH
