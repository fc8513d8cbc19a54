"""``clipsearch doctor``."""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, commands, say
from clipsearch.cli.render.health import check_lines, check_record
from clipsearch.cli.render.json_lines import json_line
from clipsearch.errors import ExitCode
from clipsearch.indexing import diagnosis
from clipsearch.indexing.diagnosis import Check

app = commands()


@app.command("doctor")
def doctor_command(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per check.")] = False,
    device: DeviceOption = "auto",
) -> int:
    """Check that clipsearch works on this machine, and explain how to fix what does not.

    This checks the installation, the device that the model runs on, the models on this machine,
    the terminal, clipsearch's own folders, and every known index. It changes nothing and does not
    use the network. Exit code 0 if everything works, 2 if there is a problem.

    \b
    Examples:
      clipsearch doctor
      clipsearch doctor --json | jq 'select(.state != "ok")'
    """

    def device_checks() -> Iterator[Check]:
        say("loading torch to check the device")
        yield from diagnosis.device(device)

    code = ExitCode.OK
    for check in chain(
        diagnosis.installation(),
        diagnosis.weights(),
        diagnosis.terminal(),
        diagnosis.directories(),
        diagnosis.indexes(Path().resolve()),
        device_checks(),
    ):
        if check.state == diagnosis.State.PROBLEM:
            code = ExitCode.ERROR
        if json:
            sys.stdout.buffer.write(json_line(check_record(check)))
            sys.stdout.buffer.flush()
        else:
            print("\n".join(check_lines(check)), flush=True)
    return code
