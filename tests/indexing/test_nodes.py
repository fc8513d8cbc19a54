"""What runs on the nodes of a cluster, tried without one."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_picture
from fakes import FakeEncoder, fake_spec

from clipsearch.errors import ClusterError, DeviceError, ImageError, WeightsNotFound
from clipsearch.indexing import nodes
from clipsearch.indexing.nodes import (
    Answer,
    ClusterOptions,
    Decoding,
    Embedding,
    Failure,
    Room,
    complaint,
    room_on,
    weights_here,
)
from clipsearch.records import (
    DecodedImage,
    EmbeddedImage,
    Encoder,
    ImageFile,
    ModelFiles,
    Preprocessing,
)

SMALL = Preprocessing((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HERE = Answer(("0.1.0", "3.3.0", "2.60.0"), None, True)


def column(*rows: Any) -> dict[str, Any]:
    return {"row": [pickle.dumps(row) for row in rows]}


def rows(made: dict[str, Any]) -> list[Any]:
    return [pickle.loads(row) for row in made["row"]]


def decoded(name: str, value: int) -> tuple[ImageFile, DecodedImage]:
    pixels = np.full((8, 8, 3), value, np.uint8)
    return ImageFile(os.fsencode(name), 1, 1), DecodedImage(pixels, b"%020d" % value, 8, 8, None)


def worker(load: Any = lambda *_: FakeEncoder(), **changes: Any) -> Embedding:
    model = ModelFiles(fake_spec(), Path("weights.safetensors"))
    named = {"sent": None, "device": "cpu", "batch_size": 16, "threads": 2, "load": load}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(nodes, "_here", lambda model, sent: model)
        return Embedding(model=model, **{**named, **changes})


def test_a_worker_embeds_what_was_decoded_and_passes_on_what_was_not() -> None:
    bad = (ImageFile(b"bad.jpg", 1, 1), ImageError("not an image"))
    gone = (ImageFile(b"gone.jpg", 1, 1), FileNotFoundError(2, "no such file"))
    a, b, c = (decoded(name, n) for n, name in enumerate("abc"))
    (made,) = rows(worker()(column([a, bad], [gone, b, c])))
    outcomes = {file.path: outcome for file, outcome in made}
    assert str(outcomes.pop(b"bad.jpg")) == "not an image"
    assert isinstance(outcomes.pop(b"gone.jpg"), FileNotFoundError)
    encoder = FakeEncoder()
    for file, image in (a, b, c):
        outcome = outcomes.pop(file.path)
        assert isinstance(outcome, EmbeddedImage)
        assert outcome.content_hash == image.content_hash
        assert np.array_equal(outcome.vector, encoder.encode_images(image.pixels[None])[0])
    assert not outcomes


def test_nothing_that_was_decoded_needs_no_model() -> None:
    encoder = FakeEncoder()
    bad = (ImageFile(b"bad.jpg", 1, 1), ImageError("not an image"))
    rows(worker(lambda *_: encoder)(column([bad])))
    assert encoder.batches == []


def test_a_model_that_cannot_be_loaded_is_a_failure_and_named() -> None:
    def load(*_: object) -> Encoder:
        raise DeviceError("the device 'cuda' cannot be used", hint="Use another.")

    (failure,) = rows(worker(load)(column([decoded("a", 1)])))
    assert isinstance(failure, Failure)
    assert failure.message.startswith("node ")
    assert failure.message.endswith(": the device 'cuda' cannot be used")
    assert failure.hint == "Use another."


def test_what_nobody_expected_is_a_failure_too() -> None:
    def load(*_: object) -> Encoder:
        raise ZeroDivisionError("division by zero")

    (failure,) = rows(worker(load)(column([decoded("a", 1)])))
    assert "unexpected ZeroDivisionError: division by zero" in failure.message


def test_a_failure_to_decode_reaches_the_driver() -> None:
    failure = Failure("node n: no process can be started", "")
    assert rows(worker()(column([decoded("a", 1)], failure))) == [failure]


@pytest.mark.process
def test_files_are_decoded_in_a_process_that_may_die(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png", 1)
    (tmp_path / "bad.jpg").write_text("this is no image")
    files = [ImageFile(os.fsencode(name), 1, 1) for name in ("a.png", "bad.jpg", "gone.png")]
    decode = Decoding(os.fsencode(tmp_path), SMALL, None)
    (made,) = rows(decode(column(files)))
    decoder = nodes._decoder(SMALL, None)
    decoder._process.kill()
    (again,) = rows(decode(column(files[:1])))
    (after,) = rows(decode(column(files[:1])))
    nodes._decoder(SMALL, None).stop()
    nodes._decoder.cache_clear()
    assert [type(outcome) for _, outcome in made] == [DecodedImage, ImageError, FileNotFoundError]
    assert "crashed" in str(again[0][1])
    assert isinstance(after[0][1], DecodedImage)


def test_a_node_that_has_everything_is_not_complained_of() -> None:
    assert complaint("n", b"/photos", HERE, HERE) is None


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (("0.2.0", "3.3.0", "2.60.0"), "node n has clipsearch 0.2.0, but this machine has 0.1.0"),
        (
            ("0.1.0", "3.2.0", "2.60.0"),
            "node n has open_clip_torch 3.2.0, but this machine has 3.3.0",
        ),
    ],
)
def test_a_node_of_another_version_is_named(told: tuple[str, ...], message: str) -> None:
    error = complaint("n", b"/photos", Answer(told, None, True), HERE)
    assert str(error) == message


def test_a_node_without_the_folder_is_named() -> None:
    error = complaint("n", b"/photos", Answer(HERE.versions, b"sub/a.png", True), HERE)
    assert isinstance(error, ClusterError)
    assert str(error).startswith("node n does not see the same folder /photos: /photos/sub/a")
    assert "Mount the folder at the same path" in error.hint


def test_a_node_is_asked_for_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "version", lambda package: "1")
    (tmp_path / "a.png").write_bytes(b"12345")
    model, root = ModelFiles(fake_spec(), tmp_path / "none.safetensors"), os.fsencode(tmp_path)
    told = nodes.answer(model, root, [ImageFile(b"a.png", 5, 7)])
    assert told == Answer(("1", "1", "1"), None, False)
    assert nodes.answer(model, root, [ImageFile(b"a.png", 6, 7)]).unseen == b"a.png"
    assert nodes.answer(model, root, [ImageFile(b"b.png", 5, 7)]).unseen == b"b.png"


def test_weights_that_a_node_lacks_are_written_once(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny_files.weights.read_bytes()
    elsewhere = ModelFiles(tiny_files.spec, Path("/nowhere/open_clip_model.safetensors"))
    monkeypatch.setattr(nodes.registry, "locate", _lacks)
    assert weights_here(elsewhere) is None
    with pytest.raises(WeightsNotFound, match="cannot be written"):
        nodes._here(elsewhere, None)
    with pytest.raises(WeightsNotFound):  # what arrived is something else
        nodes._here(elsewhere, lambda: content[:-1])
    found = nodes._here(elsewhere, lambda: content)
    assert found.weights.read_bytes() == content
    assert nodes._here(elsewhere, _never) == found


def _lacks(*_: object) -> ModelFiles:
    raise WeightsNotFound("not here")


def _never() -> bytes:
    raise AssertionError("they are there")


@pytest.mark.parametrize(
    ("nodes_", "options", "room"),
    [
        # On CPUs, one worker a node with all its threads, and a quarter left for reading.
        ([(2, 0)] * 3, {}, Room(3, 0, 1.5, 2, 0.25)),
        ([(1, 0)], {}, Room(1, 0, 0.75, 1, 0.25)),
        ([(64, 0)], {}, Room(4, 0, 12, 16, 0.25)),
        ([(4, 0), (8, 0)], {}, Room(3, 0, 3, 4, 0.25)),
        ([(0, 0), (8, 0)], {}, Room(1, 0, 6, 8, 0.25)),
        # More workers than nodes share the threads; more than CPUs are not started.
        ([(16, 0)], {"workers": 16}, Room(16, 0, 0.75, 1, 0.25)),
        ([(2, 0)], {"workers": 9}, Room(2, 0, 0.75, 1, 0.25)),
        ([(2, 0)] * 3, {"workers": 1}, Room(1, 0, 1.5, 2, 0.25)),
        # With GPUs, all CPUs decode.
        ([(16, 4), (8, 0)], {}, Room(4, 1, 0, 1, 1)),
        ([(16, 4)], {"workers": 2}, Room(2, 1, 0, 1, 1)),
        ([(16, 1)], {"gpus_per_worker": 0.1}, Room(10, 0.1, 0, 1, 1)),
        ([(16, 1)], {"gpus_per_worker": 0}, Room(1, 0, 12, 16, 0.25)),
        ([(16, 1)], {"device": "cpu"}, Room(1, 0, 12, 16, 0.25)),
    ],
)
def test_workers_leave_room_for_reading(
    nodes_: list[tuple[int, int]], options: dict[str, Any], room: Room
) -> None:
    has = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes_]
    assert room_on(has, ClusterOptions(**options)) == room


def test_no_room_for_a_worker_is_an_error() -> None:
    with pytest.raises(ClusterError, match="no node of the cluster has 2 GPUs"):
        room_on([{"CPU": 8.0, "GPU": 1.0}], ClusterOptions(gpus_per_worker=2))
    with pytest.raises(ClusterError, match="no CPUs"):
        room_on([{"GPU": 1.0}], ClusterOptions())
