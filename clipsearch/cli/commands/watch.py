"""``clipsearch watch``."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli import updating
from clipsearch.cli.app import DeviceOption, IndexOption, OfflineOption, commands, say
from clipsearch.cli.options.model import ModelChoice, load_encoder
from clipsearch.errors import CollectionGone, IndexLocked, UsageError
from clipsearch.text import printable

if TYPE_CHECKING:
    from clipsearch.records import Encoder, Found, IndexSummary, ModelFiles

app = commands()


_DAY = 86_400


@app.command("watch")
def watch_command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Folders of images; by default the current one.",
            show_default=False,
        ),
    ] = None,
    poll: Annotated[
        float | None,
        typer.Option(
            "--poll",
            metavar="SECONDS",
            help="Look for changes so often, instead of being told of them by the system: for "
            "network shares.",
            show_default=False,
        ),
    ] = None,
    exclude: updating.ExcludeOption = None,
    max_pixels: updating.MaxPixelsOption = None,
    device: DeviceOption = "auto",
    index: IndexOption = None,
    offline: OfflineOption = False,
) -> int:
    """Keep the index of each folder up to date, until it is stopped with Ctrl-C.

    Pictures that come, change, move or go are taken into account as by clipsearch index, as soon
    as they are no longer being written. The model is loaded with the first new picture and kept.
    Needs: pip install 'clipsearch[watch]'

    \b
    Examples:
      clipsearch watch ~/Pictures
      clipsearch watch ./photos ./scans --exclude '*_thumb.jpg'
      clipsearch watch /mnt/nas/photos --poll 60
    """
    from clipsearch.indexing import watch
    from clipsearch.text import printable

    if poll is not None and not 0.1 <= poll <= _DAY:  # which no NaN is
        raise UsageError(
            f"--poll {poll:g} is no interval", hint="It is 0.1 to 86400 seconds, a day."
        )
    if index is not None and folders and len(folders) > 1:
        raise UsageError(
            "--index names the place of one index, but there are several folders",
            hint="Watch them one by one.",
        )
    choice = ModelChoice(device=device, offline=offline)
    load = _KeptModel()
    watched: dict[Path, _Watched] = {}
    for folder in folders or [Path()]:
        root = updating.root_of(folder)
        update = updating.Update(root, choice, index, exclude or [], max_pixels)
        watched[root] = _Watched(folder, update, load)
    places = [one.place for one in watched.values()]
    happenings = watch.happenings(list(watched), places, poll)
    names = ", ".join(str(one.name) for one in watched.values())
    say(f"watching {printable(names)}; Ctrl-C ends it")
    due: set[Path] = set()
    for happened in happenings:
        due = {root for root in sorted(due | happened) if watched[root].look_again()}
    raise AssertionError("happenings never end")


class _KeptModel:
    """Loads a model when it is first needed, and keeps it."""

    def __init__(self) -> None:
        self._loaded: dict[str, Encoder] = {}

    def __call__(self, files: "ModelFiles", choice: ModelChoice) -> "Encoder":
        fingerprint = files.spec.fingerprint
        if fingerprint not in self._loaded:
            say(f"loading the model {files.spec.label}")
            self._loaded[fingerprint] = load_encoder(files, choice)
        return self._loaded[fingerprint]


class _Watched:
    """One of the folders."""

    def __init__(self, name: Path, update: updating.Update, load: _KeptModel) -> None:
        """name: what the user calls it."""
        self.name = name
        self.place = updating.place_of(update.root, update.index)
        self._update = update
        self._load = load
        self._is_indexed = False
        self._complaint = ""

    def look_again(self) -> bool:
        """Update the index by what has settled in the folder; say whether more is to come."""
        from clipsearch.cli.render.status import summary_lines

        try:
            summary, moving = self._round()
        except (CollectionGone, IndexLocked) as error:
            if self._complaint != str(error):  # which may be so for hours, and is said once
                self._complaint = str(error)
                say(printable(f"{self.name}: {error}"))
                say(printable(f"{self.name}: {error.hint}"))
            return isinstance(error, IndexLocked)
        self._is_indexed, self._complaint = True, ""
        if summary.added or summary.changed or summary.moved or summary.removed or summary.failed:
            for line in summary_lines(str(self.name), summary):
                say(line)
        return bool(moving)

    def _round(self) -> "tuple[IndexSummary, set[bytes]]":
        from clipsearch.images import scan
        from clipsearch.indexing import watch
        from clipsearch.storage.catalog import Store

        root, exclude = os.fsencode(self._update.root), self._update.exclude
        before = scan.find(root, exclude=exclude)
        time.sleep(watch.QUIET_SECONDS)
        if self._is_indexed and not Store.exists(self.place):
            # To make another one would hide that a disk is not mounted.
            raise CollectionGone(
                f"the index at {self.place} is not there any more",
                hint="Is the disk mounted? If it was deleted, start clipsearch watch again.",
            )
        moving: set[bytes] = set()

        def look(store: Store, under: bytes) -> "Found":
            now = scan.find(os.fsencode(store.root), exclude=exclude, under=under)
            found, still = watch.settled(before.below(under), now, store.known(under))
            moving.update(still)
            return found

        return updating.run(self._update, look=look, load=self._load), moving
