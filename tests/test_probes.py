"""Probes that are kept with an index: a damaged one is named, and can be forgotten."""

from pathlib import Path

import pytest
from fakes import fake_spec

from clipsearch import probes
from clipsearch.errors import IndexUnreadable, UsageError
from clipsearch.store import FOLDER, Store


@pytest.mark.parametrize("garbage", [b"garbage", "garbage", b"", b"PK\x03\x04garbage"])
def test_a_damaged_probe_is_named_and_can_be_forgotten(
    tmp_path: Path, garbage: str | bytes
) -> None:
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as store:
        with store.batch():
            store.attach("probe:lab", garbage)
        with pytest.raises(IndexUnreadable, match=r"'lab'.* is damaged") as caught:
            probes.load(store, "lab")
        assert "probe remove lab" in caught.value.hint
        probes.remove(store, "lab")
        assert probes.names(store) == []
        with pytest.raises(UsageError, match="no probe 'lab'"):
            probes.remove(store, "lab")
