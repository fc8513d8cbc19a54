"""``clipsearch watch``."""

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, OfflineOption, commands, progress, say
from clipsearch.cli.options.walk import ExcludeOption, MaxPixelsOption, NoExcludeOption
from clipsearch.cli.render.status import summary_lines
from clipsearch.errors import UsageError
from clipsearch.indexing.update import UpdateOptions
from clipsearch.indexing.watch import watch
from clipsearch.models.choice import ModelChoice

app = commands()


_DAY = 86_400


@app.command("watch")
def watch_command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Folders of images (default: the current folder).",
            show_default=False,
        ),
    ] = None,
    poll: Annotated[
        float | None,
        typer.Option(
            "--poll",
            metavar="SECONDS",
            help="Look for changes every SECONDS instead of being notified by the system; for "
            "network shares.",
            show_default=False,
        ),
    ] = None,
    exclude: ExcludeOption = None,
    no_exclude: NoExcludeOption = False,
    max_pixels: MaxPixelsOption = None,
    device: DeviceOption = "auto",
    index: IndexOption = None,
    offline: OfflineOption = False,
) -> int:
    """Keep the index of each folder up to date until Ctrl-C.

    Images that are added, changed, moved or deleted update the index as soon as they are fully
    written. The model is loaded with the first new image and stays in memory.
    Requires: pip install 'clipsearch[watch]'

    \b
    Examples:
      clipsearch watch ~/Pictures
      clipsearch watch ./photos ./scans --exclude '*_thumb.jpg'
      clipsearch watch /mnt/nas/photos --poll 60
    """
    if poll is not None and not 0.1 <= poll <= _DAY:  # also refuses NaN
        raise UsageError(
            f"--poll {poll:g} is out of range", hint="Use 0.1 to 86400 seconds (one day)."
        )
    if index is not None and folders and len(folders) > 1:
        raise UsageError(
            "--index takes one folder, not several",
            hint="Watch the folders one by one.",
        )
    options = UpdateOptions(
        model=ModelChoice(device=device, offline=offline),
        index=index,
        exclude=exclude or [],
        no_exclude=no_exclude,
        max_pixels=max_pixels,
    )
    for folder, summary in watch(folders or [Path()], options, poll, progress=progress, notify=say):
        if summary.added or summary.changed or summary.moved or summary.removed or summary.failed:
            for line in summary_lines(str(folder), summary):
                say(line)
    raise AssertionError("watch never ends by itself")
