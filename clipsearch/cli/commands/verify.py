"""``clipsearch verify``."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, commands, say
from clipsearch.cli.render.health import problem_record, problem_text
from clipsearch.cli.render.json_lines import json_line
from clipsearch.errors import ExitCode, IndexUnreadable
from clipsearch.images import scan
from clipsearch.indexing import verify
from clipsearch.indexing.embed import LoadEncoder
from clipsearch.models.load import Encoders
from clipsearch.records import Found, ModelSpec
from clipsearch.storage import known
from clipsearch.storage.catalog import Store
from clipsearch.text import number_of

app = commands()


@app.command("verify")
def verify_command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="An indexed folder (default: the current folder).",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            min=0,
            metavar="N",
            help="Number of images to read again and compare with the index.",
        ),
    ] = 20,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Repair what can be repaired, and list what is lost."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per problem.")
    ] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Check that an index is intact and matches its images.

    Exit code 0 if nothing is damaged or all damage was repaired, 2 if there is damage. Changes in
    the folder since it was indexed are reported but are not damage.

    \b
    Examples:
      clipsearch verify
      clipsearch verify ~/Pictures --sample 200
      clipsearch verify --repair && clipsearch index .
    """
    start = (folder or Path()).resolve()
    code = ExitCode.OK
    for directory in known.find(start, index, say, named=folder is not None):
        with Store.open_for_writing(directory) if repair else Store.open(directory) as store:
            if folder is not None and index is not None:
                known.require_about(folder, store)
            root = store.root
            found = _found(store)
            if found is None:
                say(f"{root} does not exist; checking the index without its images")
            problems = []
            for problem in verify.verify(store, found, _loads(store.spec, device), sample):
                problems.append(problem)
                if json:
                    sys.stdout.buffer.write(json_line(problem_record(problem)))
                else:
                    print(problem_text(problem))
            damaged = [problem for problem in problems if problem.kind != "behind"]
            if not damaged:
                say(f"{root}: no damage found")
            elif not repair:
                say(
                    f"{root}: {number_of(len(damaged), 'problem')}; "
                    "clipsearch verify --repair repairs what it can"
                )
                code = ExitCode.ERROR
            elif damaged[0].kind != "catalog":
                for line in verify.repair(store, damaged):
                    say(f"{root}: {line}")
                continue
        if repair and damaged and damaged[0].kind == "catalog":
            saved = verify.salvage(directory)
            say(
                f"{root}: saved {number_of(saved.pictures, 'image')} from the damaged catalog, "
                f"which is kept as {saved.damaged}"
            )
            say(f"embed the lost images again with: clipsearch index {root}")
    return code


def _found(store: Store) -> Found | None:
    """The contents of the folder of images; None if it does not exist."""
    if not store.root.is_dir():
        return None
    exclude: Sequence[str] = ()
    with suppress(IndexUnreadable):  # the checks report it
        exclude = store.scope.exclude
    return scan.find(os.fsencode(store.root), exclude=exclude)


def _loads(spec: ModelSpec, device: str) -> LoadEncoder:
    encoders = Encoders.of(spec, device)
    return lambda: encoders.both
