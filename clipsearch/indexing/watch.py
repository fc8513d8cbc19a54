"""Keep indexes up to date while their folders change, leaving files that still grow alone.

``watch`` is the loop. ``happenings`` only says where to look again, and the next walk finds out
what changed. So an event that the system sends twice, or not at all, costs only time.
Only this module imports watchfiles.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from clipsearch.errors import (
    CollectionGone,
    IndexLocked,
    IndexNotFound,
    StoreError,
    UsageError,
)
from clipsearch.images import scan
from clipsearch.images.scan import SUFFIXES
from clipsearch.indexing.changes import IndexSummary
from clipsearch.indexing.embed import Progress
from clipsearch.indexing.update import UpdateOptions, place_of, root_of, update
from clipsearch.models.choice import ModelChoice, Notify
from clipsearch.models.load import Encoders, load_text_encoder
from clipsearch.paths import relative
from clipsearch.records import Encoder, Found, ImageFile, KnownImage, ModelFiles, Scope
from clipsearch.storage.catalog import Store
from clipsearch.text import printable

Bars = Callable[[], AbstractContextManager[Progress]]
"""Creates the progress display of one update, and removes it at the end."""

QUIET_SECONDS = 1.0
"""Seconds between two looks at a file; if it did not change, its writer is assumed finished."""

_TICK_MS = 1000
_PAUSE_MS, _GROUPED_MS = 200, 5000
"""Events are grouped until there is a pause, but at most this long."""


class Watched:
    """A folder whose index is kept up to date."""

    def __init__(self, folder: Path, options: UpdateOptions) -> None:
        """Raises UsageError if ``folder`` is not a folder."""
        self.folder = folder
        """As the user gave it."""
        self.root = root_of(folder)
        self.place = place_of(self.root, options.index)
        self._options = options
        self._is_indexed = False
        self._complaint = ""

    def look_again(
        self, encoders: Callable[[ModelFiles], Encoders], notify: Notify, progress: Bars
    ) -> tuple[IndexSummary | None, bool]:
        """Update the index with the files that have settled; also returns whether more is to come.

        No summary if the collection is gone or locked, which is reported to ``notify`` once.
        """
        try:
            with progress() as bar:
                summary, moving = self._round(encoders, notify, bar)
        except (CollectionGone, IndexLocked) as error:
            if self._complaint != str(error):  # the same state may last for hours
                self._complaint = str(error)
                notify(printable(f"{self.folder}: {error}"))
                notify(printable(f"{self.folder}: {error.hint}"))
            return None, isinstance(error, IndexLocked)
        self._is_indexed, self._complaint = True, ""
        # These options are stored with the index, where another run may change them meanwhile.
        self._options = replace(self._options, exclude=(), no_exclude=False, max_pixels=None)
        return summary, bool(moving)

    def _round(
        self, encoders: Callable[[ModelFiles], Encoders], notify: Notify, progress: Progress
    ) -> tuple[IndexSummary, set[bytes]]:
        before = self._seen()
        time.sleep(QUIET_SECONDS)
        if self._is_indexed and not Store.exists(self.place):
            # A new index would hide that a disk is not mounted.
            raise CollectionGone(
                f"the index at {self.place} no longer exists",
                hint="Is the disk mounted? If you deleted it, start clipsearch watch again.",
            )
        moving: set[bytes] = set()

        def look(store: Store, under: bytes) -> Found:
            exclude = store.scope.exclude
            now = scan.find(os.fsencode(store.root), exclude=exclude, under=under)
            found, still = settled(before, now, store.known(under))
            moving.update(still)
            return found

        summary = update(
            self.root,
            self._options,
            look=look,
            try_failed=not self._is_indexed,  # once, not at every change
            encoders=encoders,
            progress=progress,
            notify=notify,
        )
        return summary, moving

    def _seen(self) -> Found:
        """The current files in the folder, relative to the root of its index."""
        root, kept = self.root, Scope(())
        if Store.exists(self.place):
            with suppress(IndexNotFound), Store.open(self.place) as store:
                root, kept = store.root, store.scope
        exclude = self._options.scope(kept).exclude
        return scan.find(os.fsencode(root), exclude=exclude, under=relative(self.root, root))


def _no_bar() -> AbstractContextManager[Progress]:
    return nullcontext(lambda doing, done, total: None)


def watch(
    folders: Sequence[Path],
    options: UpdateOptions,
    poll: float | None,
    *,
    progress: Bars = _no_bar,
    notify: Notify = lambda message: None,
) -> Iterator[tuple[Path, IndexSummary]]:
    """Keep the index of each folder up to date; yield the result of each update, forever.

    poll: see ``happenings``. progress: creates the progress display of one update. A model is
    loaded with the first new image and kept. If a collection is gone or locked, ``notify`` says
    so and watching continues. Raises UsageError, ModelError, StoreError, and what ``happenings``
    raises; all but the last before the first update.
    """
    watched = {one.root: one for one in (Watched(folder, options) for folder in folders)}
    encoders = _kept_encoders(options.model, notify)
    seen = happenings(list(watched), [one.place for one in watched.values()], poll)
    names = ", ".join(str(one.folder) for one in watched.values())
    notify(f"watching {printable(names)}; press Ctrl-C to stop")
    due: set[Path] = set()
    for happened in seen:
        again: set[Path] = set()
        for root in sorted(due | happened):
            summary, more = watched[root].look_again(encoders, notify, progress)
            if summary is not None:
                yield watched[root].folder, summary
            if more:
                again.add(root)
        due = again


def _kept_encoders(choice: ModelChoice, notify: Notify) -> Callable[[ModelFiles], Encoders]:
    """The encoders of each model, loaded when first needed and kept."""
    kept: dict[str, Encoders] = {}

    def encoders(files: ModelFiles) -> Encoders:
        def load() -> Encoder:
            notify(f"loading the model {files.spec.label}")
            return choice.encoders(files).both

        both = cache(load)
        made = Encoders(lambda: load_text_encoder(files, both), both)
        return kept.setdefault(files.spec.fingerprint, made)

    return encoders


def happenings(
    folders: Sequence[Path], ignored: Sequence[Path], poll: float | None
) -> Iterator[set[Path]]:
    """Yield the ``folders`` in which something has happened; an empty set every second.

    folders: absolute, like ``ignored``: places whose events do not count (indexes).
    poll: seconds between looks, for shares that send no events. All folders are yielded at the
    start, and when one has come or gone and events may be lost.

    Raises UsageError if watchfiles is not installed, and StoreError if the system cannot watch
    the folders.
    """
    try:
        from watchfiles import Change, watch
    except ImportError as error:
        raise UsageError(
            "watch needs the package watchfiles, which is not installed",
            hint="Install it with: pip install 'clipsearch[watch]'",
        ) from error

    return _happenings(watch, Change.modified, folders, ignored, poll)


def _happenings(
    watch: Callable[..., Iterator[set[tuple[Any, str]]]],
    modified: object,
    folders: Sequence[Path],
    ignored: Sequence[Path],
    poll: float | None,
) -> Iterator[set[Path]]:
    while True:
        identities = {folder: _identity(folder) for folder in folders}
        present = {folder for folder, identity in identities.items() if identity}
        due = set(folders)
        try:
            for messages in watch(
                *present,
                watch_filter=None,
                debounce=_GROUPED_MS,
                step=_PAUSE_MS,
                rust_timeout=_TICK_MS,
                yield_on_timeout=True,
                force_polling=poll is not None,
                poll_delay_ms=round(1000 * (poll or 0)),
                ignore_permission_denied=True,
            ):
                for change, name in messages:
                    if change == modified and os.path.isdir(name):
                        continue  # because of a file in it, which has an event of its own
                    due |= _concerned(Path(name), present, ignored)
                yield due
                due = set()
                if any(_identity(folder) != before for folder, before in identities.items()):
                    break
        except FileNotFoundError:
            continue  # a folder disappeared since the last look
        except (OSError, RuntimeError, UnicodeError) as error:
            if "Unable to decode path" in str(error):
                continue  # a file's name cannot be decoded, and watchfiles stops: start again
            raise StoreError(
                f"the system cannot watch {', '.join(map(str, folders))}: {error}",
                hint="Check for changes at intervals instead, for example every minute: --poll 60",
            ) from error


def settled(
    before: Found, now: Found, known: Mapping[bytes, KnownImage]
) -> tuple[Found, set[bytes]]:
    """The part of ``now`` that is reliable, and the paths of the files that are not.

    A file that appeared, disappeared, grew or was touched between the two looks stays as the
    catalog has it, or is left out: a copy or a rename may be in progress.
    """
    moving = {file.path for file in set(before.files) ^ set(now.files)}
    files = [file for file in now.files if file.path not in moving]
    files += [
        ImageFile(path, known[path].size, known[path].mtime_ns) for path in moving & known.keys()
    ]
    return replace(now, files=sorted(files)), moving


def _identity(folder: Path) -> tuple[int, int] | None:
    """Distinguishes a folder from another one at the same path; None if there is no folder."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _concerned(path: Path, folders: set[Path], ignored: Sequence[Path]) -> set[Path]:
    """The folders affected by an event at ``path``."""
    if any(path.is_relative_to(place) for place in ignored):
        return set()
    # If the path is gone, it may have been a folder of images.
    if os.fsencode(path.suffix.lower()) not in SUFFIXES and path.is_file():
        return set()
    return {
        folder
        for folder in folders
        if path.is_relative_to(folder)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
