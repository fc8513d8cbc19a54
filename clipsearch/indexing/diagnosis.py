"""Check this installation, this machine and the indexes on it.

Each check is yielded as soon as it finishes. Nothing is changed, and the network is not used.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from clipsearch import paths
from clipsearch.errors import ClipsearchError
from clipsearch.images import scan
from clipsearch.indexing.changes import diff
from clipsearch.records import Found
from clipsearch.storage import known as collections
from clipsearch.storage.catalog import CATALOG, Store
from clipsearch.storage.lock import writer_of
from clipsearch.text import endings_text, number_of


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well as it could."""
    PROBLEM = "problem"
    """Something that clipsearch needs now, or would need later, does not work."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result."""

    area: str
    state: State
    text: str
    hint: str = ""
    """The next step, if there is one."""


PACKAGES = ("torch", "open_clip_torch", "faiss-cpu", "numpy", "pillow", "pillow-heif")

_GIGABYTE = 1 << 30
_LITTLE_SPACE = _GIGABYTE
"""The default model's weights take 0.6 GB."""


def installation() -> Iterator[Check]:
    """Check Python, the packages, the image formats and the extras."""
    yield _ok("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        try:
            yield _ok("package", f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            yield Check("package", State.PROBLEM, f"{name} is not installed", f"pip install {name}")
    try:
        from clipsearch.images.decode import FORMATS
    except ImportError as error:
        yield Check("pictures", State.PROBLEM, f"images cannot be read: {error}", _REINSTALL)
    else:
        missing = [kind for kind in ("JPEG", "PNG", "WEBP", "HEIF", "AVIF") if kind not in FORMATS]
        if missing:
            without = ", ".join(missing)
            yield Check(
                "pictures",
                State.WARNING,
                f"this Pillow cannot read {without}",
                hint="pip install --upgrade pillow pillow-heif",
            )
        else:
            yield _ok("pictures", ", ".join(FORMATS))
    yield from _extras()


_REINSTALL = "pip install --force-reinstall clipsearch"


def _extras() -> Iterator[Check]:
    try:
        required = metadata.requires("clipsearch") or []
    except metadata.PackageNotFoundError:  # run from source
        return
    extras: dict[str, list[str]] = {}
    for requirement in required:
        if found := re.match(r"([\w.-]+).*;.*extra\s*==\s*['\"]([\w-]+)['\"]", requirement):
            extras.setdefault(found[2], []).append(found[1])
    for extra, packages in extras.items():
        if extra == "test":
            continue
        missing = [name for name in packages if not _is_installed(name)]
        what = f"not installed; to install it: pip install 'clipsearch[{extra}]'"
        yield _ok("extra", f"{extra}: {what if missing else 'installed'}")


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def device(name: str) -> Iterator[Check]:
    """Check the processor and the model's device. Imports torch, which takes seconds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = _memory()
    size = f", {memory / _GIGABYTE:.0f} GB of memory" if memory else ""
    yield _ok("processor", f"{_processor()}, {cores} cores{size}")
    try:
        from clipsearch.models.open_clip import device_facts

        facts = device_facts(name)
    except (ImportError, OSError) as error:  # libraries that torch needs are missing
        first = next(iter(str(error).splitlines()), type(error).__name__)
        yield Check("device", State.PROBLEM, f"torch cannot be loaded: {first}", _REINSTALL)
    except ClipsearchError as error:
        yield Check("device", State.PROBLEM, str(error), error.hint)
    else:
        yield _ok("device", facts)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no sysconf on Windows
        return 0


def weights() -> Iterator[Check]:
    """Check which models are on this machine."""
    from clipsearch.models import hub, registry

    for name, what, path in registry.on_this_machine():
        if path is not None and path.exists():
            yield _ok("model", f"{name} ({what})")
        elif name == registry.POCKET:
            yield Check("model", State.PROBLEM, "the built-in model is missing", _REINSTALL)
        else:
            offline = hub.is_offline()
            yield Check(
                "model",
                State.WARNING,
                f"{name} ({what}) is not on this machine",
                hint="The network is disabled. To copy the model here, see: clipsearch models"
                if offline
                else "It is downloaded (0.6 GB) when a new folder is indexed. Without a network, "
                "pocket is used instead.",
            )
    if hub.is_offline():
        yield _ok("network", "not used: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set")


def terminal() -> Iterator[Check]:
    """Check what standard output can show."""
    out = sys.stdout
    encoding = (out.encoding or "").lower().replace("-", "")
    if not out.isatty():
        yield _ok("terminal", "standard output is not a terminal; plain lines are printed")
    else:
        columns, rows = shutil.get_terminal_size()
        yield _ok("terminal", f"{columns} x {rows}, {os.environ.get('TERM', 'of unknown type')}")
    if encoding != "utf8":
        yield Check(
            "encoding",
            State.WARNING,
            f"{out.encoding}: names outside this encoding are shown with escapes",
            hint="export LC_ALL=C.UTF-8 (or another UTF-8 locale), or PYTHONUTF8=1",
        )
    else:
        yield _ok("encoding", "UTF-8")
    if "NO_COLOR" in os.environ:
        yield _ok("color", "none: NO_COLOR is set")
    elif os.environ.get("TERM") in (None, "dumb") or not out.isatty():
        yield _ok("color", "none")
    else:
        yield _ok("color", "yes")
    yield _ok("thumbnails", f"{_image_protocol()} (a guess from the environment)")


def _image_protocol() -> str:
    term, program = os.environ.get("TERM", ""), os.environ.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in os.environ or "kitty" in term or program == "ghostty":
        return "kitty graphics"
    if (
        program in ("iTerm.app", "WezTerm", "mintty")
        or term.startswith(("foot", "mlterm", "yaft"))
        or "sixel" in term
    ):
        return "sixel"
    return "half-blocks"


def directories() -> Iterator[Check]:
    """Check the directories where clipsearch keeps a user's files."""
    for area, path in (("data", paths.data_dir()), ("cache", paths.cache_dir())):
        there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield Check(
                area,
                State.WARNING,
                f"{path} is not writable",
                hint=f"Searches work, but slowly, and no index is remembered. Fix its permissions, "
                f"or set CLIPSEARCH_{area.upper()}_DIR.",
            )
            continue
        free = shutil.disk_usage(there).free
        state = State.WARNING if free < _LITTLE_SPACE else State.OK
        hint = "Free some disk space." if free < _LITTLE_SPACE else ""
        yield Check(area, state, f"{path}, {free / _GIGABYTE:.1f} GB free", hint)


def indexes(here: Path) -> Iterator[Check]:
    """Check every index that this user has made, and the one that ``here`` is in."""
    known = dict.fromkeys(collections.remembered())
    holder = collections.holding(here)
    if holder is not None:
        known[holder] = None
    if not known:
        yield Check("index", State.OK, "no index yet", "clipsearch index FOLDER")
    for directory in sorted(known):
        root = collections.remembered().get(directory)
        try:
            yield from _index(directory, root)
        except OSError as error:
            yield Check(
                "index",
                State.WARNING,
                f"{root or directory}: {error.strerror or error}",
                hint="It cannot be searched. If it is yours, fix its permissions.",
            )


def _index(directory: Path, root: Path | None) -> Iterator[Check]:
    name = str(root or directory)
    if not Store.exists(directory):
        yield Check(
            "index",
            State.WARNING,
            f"{name}: the index at {directory} does not exist",
            hint="Is its disk mounted? If you deleted it, there is nothing to do.",
        )
        return
    journal = directory / f"{CATALOG}-journal"
    writer = writer_of(directory)
    left = journal.exists() and writer is None
    try:
        with Store.open(directory) as store:
            name = str(store.root)
            damage = store.vector_file_problem()
            status = store.status()
            found = (
                scan.find(os.fsencode(store.root), exclude=store.scope.exclude)
                if store.root.is_dir()
                else None
            )
            changed = None if found is None else _changes(store, found)
    except ClipsearchError as error:
        yield Check("index", State.PROBLEM, f"{name}: {error}", error.hint)
        return
    from clipsearch.models import registry

    counts = f"{name}: {number_of(status.images, 'image')}, {status.spec.label}"
    if found is not None and found.ignored and not found.files:
        counts += f"; files that clipsearch does not read: {endings_text(found.ignored)}"
    try:
        registry.locate(status.spec)
    except ClipsearchError as error:
        yield Check("index", State.PROBLEM, f"{counts}: {error}", error.hint)
    if writer is not None:
        yield Check("index", State.OK, f"{counts}; {writer or 'another run'} is writing to it")
    elif left and journal.exists():
        yield Check(
            "index",
            State.WARNING,
            f"{counts}; a run that was killed left {journal.name}",
            hint=f"To clean up: clipsearch index {name}",
        )
    elif changed is None:
        yield Check(
            "index",
            State.WARNING,
            f"{counts}; the folder does not exist",
            hint="Is its disk mounted? Searches work, but images cannot be shown.",
        )
    elif any(changed):
        new, gone = changed
        yield Check(
            "index",
            State.WARNING,
            f"{counts}; {new} new or changed, {gone} gone",
            hint=f"clipsearch index {name}",
        )
    else:
        yield Check("index", State.OK, f"{counts}; up to date")
    if damage and status.vector_bytes:  # a missing file is simply written later
        yield Check(
            "index",
            State.WARNING,
            f"{name}: the vector file cannot be used: {damage}",
            hint="The next search or index writes it again.",
        )
    if status.left_out:
        yield Check(
            "index",
            State.WARNING,
            f"{name}: cannot find {number_of(status.left_out, 'image')}: damaged embedding",
            hint=f"clipsearch verify --repair {name}, then clipsearch index {name}",
        )


def _changes(store: Store, found: Found) -> Sequence[int]:
    """How many files are new or changed, and how many are gone."""
    changes = diff(found.files, store.known(), [path for path, _ in found.unreadable])
    return len(changes.added) + len(changes.changed), len(changes.missing)


def _ok(area: str, text: str) -> Check:
    return Check(area, State.OK, text)
