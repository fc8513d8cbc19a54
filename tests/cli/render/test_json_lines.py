"""A record is one line, and a path survives whatever its bytes."""

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from clipsearch.cli.render.json_lines import json_line, json_path


@given(st.binary())
def test_a_path_survives_json_whatever_its_bytes(path: bytes) -> None:
    told = json.loads(json_line({"path": json_path(path)}))["path"]
    assert path == (told.encode() if isinstance(told, str) else base64.b64decode(told["bytes"]))


def test_a_record_is_one_line_of_utf8_even_with_half_a_surrogate_pair() -> None:
    line = json_line({"model": "caf\udce9\n"})
    assert line.count(b"\n") == 1
    assert json.loads(line.decode("utf-8")) == {"model": "caf\udce9\n"}
