"""Writes JSON lines, and paths as JSON."""

import base64
import json
from collections.abc import Mapping


def json_line(record: Mapping[str, object]) -> bytes:
    """A record as one line of JSON, always in UTF-8.

    A lone surrogate, which a model's path can contain, has no UTF-8 form; it stays an escape.
    """
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def json_path(path: bytes) -> str | dict[str, str]:
    """A path as a JSON string, or as ``{"bytes": base64}`` if it is not UTF-8."""
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return {"bytes": base64.b64encode(path).decode("ascii")}
