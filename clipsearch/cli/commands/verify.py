"""``clipsearch verify``."""

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, commands, say
from clipsearch.cli.options.model import ModelChoice, load_encoder
from clipsearch.cli.render.json_lines import json_line
from clipsearch.errors import ExitCode, IndexUnreadable

if TYPE_CHECKING:
    from clipsearch.records import Encoder, ModelSpec

app = commands()


@app.command("verify")
def verify_command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="A folder.", show_default=False)
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            min=0,
            metavar="N",
            help="Read so many pictures again, and compare with what the index has of them.",
        ),
    ] = 20,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make again what can be made again, and name what is lost."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a problem.")] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Check that an index is whole, and that it fits its pictures.

    Exit code 0 says that nothing is damaged, or that all damage was repaired; 2 that something is.
    A folder that has changed since it was indexed is told of and is no damage.

    \b
    Examples:
      clipsearch verify
      clipsearch verify ~/Pictures --sample 200
      clipsearch verify --repair && clipsearch index .
    """
    from clipsearch.cli.render.health import problem_record, problem_text
    from clipsearch.images import scan
    from clipsearch.indexing import verify
    from clipsearch.storage import known
    from clipsearch.storage.catalog import Store

    start = (folder or Path()).resolve()
    code = ExitCode.OK
    for directory in known.find(start, index):
        with Store.open_for_writing(directory) if repair else Store.open(directory) as store:
            root = store.root
            found = scan.find(os.fsencode(root)) if root.is_dir() else None
            if found is None:
                say(f"{root} is not there; the index is checked without its pictures")
            encoder = partial(_encoder, store.spec, device)
            problems = []
            for problem in verify.verify(store, found, encoder, sample):
                problems.append(problem)
                if json:
                    sys.stdout.buffer.write(json_line(problem_record(problem)))
                else:
                    print(problem_text(problem))
            damaged = [problem for problem in problems if problem.kind != "behind"]
            if not damaged:
                say(f"{root}: nothing is damaged")
            elif not repair:
                say(f"{root}: {len(damaged)} problems; verify --repair mends what can be mended")
                code = ExitCode.ERROR
            elif damaged[0].kind != "catalogue":
                for line in verify.repair(store, damaged):
                    say(f"{root}: {line}")
                say(f"embed what was forgotten with: clipsearch index {root}")
                continue
        if repair and damaged and damaged[0].kind == "catalogue":
            _salvage(directory)
    return code


def _encoder(spec: "ModelSpec", device: str) -> "Encoder":
    from clipsearch.models import registry

    choice = ModelChoice(device=device, offline=True)
    return load_encoder(registry.locate(spec), choice)


def _salvage(directory: Path) -> None:
    """Put a catalogue of all that can still be read in the place of a damaged one."""
    from clipsearch.storage.catalog import CATALOG, REBUILD, Store

    with Store.open_for_writing(directory) as old:
        root, spec = old.root, old.spec
        shutil.rmtree(directory / REBUILD, ignore_errors=True)
        with Store.create(directory / REBUILD, root, spec) as new:
            kept = old.salvage(new)
            if kept == 0:
                raise IndexUnreadable(
                    f"no picture can be read from {directory / CATALOG}",
                    hint=f"Delete {directory} and index again; nothing in it can be saved.",
                )
            new.update_vector_index(anew=True)
            old.replace_with(new)
    say(f"{root}: {kept} pictures were saved from the damaged catalogue")
    say(f"embed what was lost with: clipsearch index {root}")
