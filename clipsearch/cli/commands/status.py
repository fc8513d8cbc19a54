"""``clipsearch status`` and ``clipsearch models``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import IndexOption, commands, say
from clipsearch.cli.render.json_lines import json_line
from clipsearch.cli.render.status import models_text, status_record, status_text
from clipsearch.errors import ClipsearchError, ExitCode
from clipsearch.models import registry
from clipsearch.storage import known
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection

app = commands()


@app.command("status")
def status_command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="An indexed folder (default: the current folder).",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per index.")] = False,
    index: IndexOption = None,
) -> int:
    """Show what is indexed, with which model and domain, what was tested, and what failed.

    \b
    Examples:
      clipsearch status
      clipsearch status ~/Pictures --json
    """
    start = (folder or Path()).resolve()
    for directory in known.find(start, index, say, named=folder is not None):
        with Store.open(directory) as store:
            if folder is not None and index is not None:
                known.require_about(folder, store)
            status, assured = store.status(), Collection(store)
            if json:
                record = status_record(status, assured)
                sys.stdout.buffer.write(json_line(record))
                continue
            try:
                registry.locate(status.spec)
                here = "on this machine"
            except ClipsearchError as error:
                here = f"cannot be used here: {error}"
            print(status_text(status, assured, here))
    return ExitCode.OK


@app.command("models")
def models_command(
    all: Annotated[
        bool,
        typer.Option("--all", help="Also list every architecture with its published weights."),
    ] = False,
) -> int:
    """List the models that you can use, and where their weights are on this machine.

    Also explains how to bring weights to a machine without a network.

    \b
    Examples:
      clipsearch models
      clipsearch models --all | grep ViT-L
    """
    print(models_text(registry.on_this_machine()))
    if all:
        from clipsearch.models.open_clip import published_weights  # seconds of torch

        print("\nArchitectures and their published weights (--model NAME --pretrained TAG):")
        for name in registry.architectures():
            tags = ", ".join(published_weights(name)) or "none; --pretrained FILE"
            print(f"  {name}: {tags}")
    return ExitCode.OK
