"""Identify weights by their content, without reading 600 MB before every query.

A ledger in the cache directory stores the SHA-256 of each weights file with its path, size and
modification time. It answers both questions: which content a file has, and which file has a given
content. All of it can be computed again, so a lost or unwritable ledger only costs time.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipsearch.paths import cache_dir, write_whole


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex. Raises OSError if it cannot be read."""
    ledger = _read()
    key, facts = os.fspath(path.absolute()), _facts(path)
    entry = ledger.get(key)
    if entry and entry[:2] == facts:
        return str(entry[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError, UnicodeEncodeError):
        write_whole(_ledger(), json.dumps({**ledger, key: [*facts, digest]}, indent=1).encode())
    return digest


def find(sha256: str) -> Path | None:
    """A file on this machine with this content, if the ledger knows one."""
    for key, (*facts, digest) in _read().items():
        path = Path(key)
        with suppress(OSError):
            if digest == sha256 and _facts(path) == facts:
                return path
    return None


def mappable(path: Path) -> Path | None:
    """The text tower as safetensors, which can be memory-mapped: the file itself or its copy."""
    if path.suffix == ".safetensors":
        return path
    copy = text_tower_copy(sha256_of(path))
    return copy if copy.is_file() else None


def text_tower_copy(sha256: str) -> Path:
    """Where the text tower of weights that cannot be mapped (``.bin``, ``.pt``) is stored."""
    return cache_dir() / "text-towers" / f"{sha256}.safetensors"


def _ledger() -> Path:
    return cache_dir() / "weights.json"


def _facts(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read() -> dict[str, Any]:
    try:
        ledger = json.loads(_ledger().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(ledger, dict):
        return {}
    return {key: e for key, e in ledger.items() if isinstance(e, list) and len(e) == 3}
