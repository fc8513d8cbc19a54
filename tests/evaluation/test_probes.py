"""Probes that are kept with an index: a damaged one is named, and can be forgotten."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from fakes import DIM, fake_spec

from clipsearch.domain.intervals import Estimate
from clipsearch.errors import IndexUnreadable, UsageError
from clipsearch.evaluation import probes
from clipsearch.evaluation.probes import KeptProbe, Probe
from clipsearch.storage.catalog import FOLDER, Store


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


def kept(name: str, dim: int = DIM) -> KeptProbe:
    """A probe for two classes, whole."""
    share = Estimate(0.9, 0.8, 1.0, 30)
    probe = Probe(("a", "b"), np.ones((2, dim)), np.zeros(2), 1.0)
    facts = ("labelled", "2024-05-03T12:30:00+00:00", (15, 15), share, share, 0.5)
    return KeptProbe(name, probe, fake_spec().fingerprint, *facts)


@pytest.mark.parametrize(
    "change",
    [
        {"images": [15]},
        {"images": 15},
        {"held_out": None},
        {"held_out": {"value": "0.9", "low": 0.8, "high": 1.0, "n": 30}},
        {"model": 5},
        {"unheard": 1},
        {"classes": np.array(["a", "b", "c"])},
        {"weights": np.ones(2)},
        {"weights": np.array([["a"], ["b"]])},
        {"intercepts": np.zeros((2, 1))},
        {"l2": np.array(["x"])},
    ],
    ids=str,
)
def test_a_probe_with_something_else_in_it_is_damaged(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    whole = kept("lab")
    with np.load(io.BytesIO(whole.to_bytes())) as arrays:
        about = json.loads(str(arrays["about"]))
    with np.load(io.BytesIO(whole.probe.to_bytes())) as arrays:
        parts = dict(arrays)
    file, inner = io.BytesIO(), io.BytesIO()
    np.savez(inner, **{key: change.get(key, part) for key, part in parts.items()})
    about |= {key: value for key, value in change.items() if key not in parts}
    np.savez(file, about=json.dumps(about), probe=np.frombuffer(inner.getvalue(), np.uint8))
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as store:
        with store.batch():
            store.attach("probe:lab", file.getvalue())
        with pytest.raises(IndexUnreadable, match=r"'lab'.* is damaged"):
            probes.ready(store, "lab")


def test_a_probe_for_embeddings_of_another_length_is_damaged(tmp_path: Path) -> None:
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as store:
        probes.keep(store, kept("lab"))
        assert probes.load(store, "lab").probe.classes == ("a", "b")
        probes.keep(store, kept("lab", dim=DIM + 1))
        with pytest.raises(IndexUnreadable, match="damaged"):
            probes.load(store, "lab")


def test_one_damaged_probe_is_named_and_the_others_are_listed(run: Run, tmp_path: Path) -> None:
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as store:
        for name in ("a", "c"):
            probes.keep(store, kept(name))
        with store.batch():
            store.attach("probe:b", "garbage")
    done = run("probe", "list", "--json")
    assert done.code == 2
    assert [json.loads(line)["name"] for line in done.lines] == ["a", "c"]
    (said,) = done.err.splitlines()
    assert said.startswith("clipsearch: the probe 'b' in the index of ")
    assert said.endswith("Train it again, or remove it: clipsearch probe remove b")
