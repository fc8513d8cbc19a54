"""A probe goes to a file and into another index of its model, and into no other."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from fakes import DIM, fake_spec
from safetensors.numpy import load, save

from clipsearch.domain.intervals import Estimate
from clipsearch.errors import ExchangeError, ModelMismatch, RefusedByPolicy, UsageError
from clipsearch.evaluation import probe_file
from clipsearch.evaluation.probes import KeptProbe, Probe
from clipsearch.storage.catalog import FOLDER, Store

SHARE = Estimate(0.9, 0.8, 1.0, 30)
KEPT = KeptProbe(
    name="lab",
    probe=Probe(("größer", "b"), np.arange(2.0 * DIM).reshape(2, DIM), np.array([0.5, -0.5]), 1.0),
    model=fake_spec().fingerprint,
    source="labelled",
    made_at="2024-05-03T12:30:00+00:00",
    images=(15, 0),
    held_out=SHARE,
    zero_shot=SHARE,
    most_frequent=0.5,
    recall=SHARE,
    scale=20.0,
    notes=("no images of b: only the words identify these classes",),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / FOLDER, tmp_path, fake_spec())


def written(tmp_path: Path, kept: KeptProbe = KEPT) -> Path:
    path = tmp_path / "probe.safetensors"
    path.write_bytes(probe_file.to_bytes(kept))
    return path


def test_a_probe_comes_back_as_it_was(tmp_path: Path, store: Store) -> None:
    path = written(tmp_path)
    again = probe_file.read(path, store)
    assert dataclasses.replace(again, probe=KEPT.probe) == KEPT
    assert (again.probe.classes, again.probe.l2) == (KEPT.probe.classes, 1.0)
    np.testing.assert_array_equal(again.probe.weights, KEPT.probe.weights)
    np.testing.assert_array_equal(again.probe.intercepts, KEPT.probe.intercepts)
    assert probe_file.read(path, store, "other").name == "other"
    assert load(path.read_bytes())["weights"].dtype == np.float32


def test_another_models_probe_is_refused(tmp_path: Path, store: Store) -> None:
    path = written(tmp_path, dataclasses.replace(KEPT, model="0" * 64))
    with pytest.raises(ModelMismatch, match="another model"):
        probe_file.read(path, store)


def test_names_are_checked(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="not a valid name for a probe"):
        probe_file.read(written(tmp_path), store, "a/b")
    probe = dataclasses.replace(KEPT.probe, classes=("identify this man", "b"))
    with pytest.raises(RefusedByPolicy):
        probe_file.read(written(tmp_path, dataclasses.replace(KEPT, probe=probe)), store)


def test_what_is_no_whole_probe_is_said_so(tmp_path: Path, store: Store) -> None:
    whole = probe_file.to_bytes(KEPT)
    tensors = load(whole)
    about = json.dumps({"name": "lab"})
    path = tmp_path / "x"
    with pytest.raises(ExchangeError, match="cannot read"):
        probe_file.read(path, store)
    for data in (
        b"",
        b"garbage",
        whole[:-1],
        save(tensors),
        save(tensors, {"format": "another", "about": about}),
        save(tensors, {"format": probe_file.FORMAT, "about": about}),
        save({**tensors, "weights": tensors["weights"][:1]}, _metadata(whole)),
        save({"weights": tensors["weights"]}, _metadata(whole)),
        save({**tensors, "weights": tensors["weights"][:, 1:].copy()}, _metadata(whole)),
        save({**tensors, "weights": tensors["weights"] * np.nan}, _metadata(whole)),
    ):
        path.write_bytes(data)
        with pytest.raises(ExchangeError, match="not a complete probe"):
            probe_file.read(path, store)


def _metadata(data: bytes) -> dict[str, str]:
    found: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])[
        "__metadata__"
    ]
    return found
