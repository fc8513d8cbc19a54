"""."""

import base64
import json
from collections.abc import Mapping


def json_line(record: Mapping[str, object]) -> bytes:
    """A record as one line of JSON in UTF-8, whatever the terminal's encoding is.

    Half a surrogate pair, which a model's path can hold, has no UTF-8; it stays an escape.
    """
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def json_path(path: bytes) -> str | dict[str, str]:
    """A path as JSON text, or, where it is not UTF-8, as ``{"bytes": base64}``."""
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return {"bytes": base64.b64encode(path).decode("ascii")}
