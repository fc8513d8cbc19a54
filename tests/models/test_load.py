"""Encoders are loaded once, when they are needed, and the text tower without torch if it can be."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder

from clipsearch.errors import DeviceError
from clipsearch.models.load import Encoders, load_encoder, load_text_encoder
from clipsearch.models.open_clip import OpenClipEncoder
from clipsearch.records import Encoder, ModelFiles


def no_encoder() -> Encoder:
    raise AssertionError("there is nothing to load")


def test_the_text_tower_needs_no_torch_and_agrees_with_open_clip(tiny_files: ModelFiles) -> None:
    alone = load_text_encoder(tiny_files, no_encoder)
    assert not isinstance(alone, OpenClipEncoder)
    both = load_encoder(tiny_files, "cpu")
    texts = ["a cat", "two dogs in the snow"]
    np.testing.assert_allclose(alone.encode_texts(texts), both.encode_texts(texts), atol=4e-3)


def test_a_tower_that_numpy_does_not_have_is_loaded(tiny_files: ModelFiles) -> None:
    text_cfg = {**tiny_files.spec.model_cfg["text_cfg"], "pool_type": "last"}
    config = {**tiny_files.spec.model_cfg, "text_cfg": text_cfg}
    spec = dataclasses.replace(tiny_files.spec, model_cfg=config)
    encoder = FakeEncoder()
    assert load_text_encoder(ModelFiles(spec, tiny_files.weights), lambda: encoder) is encoder


def test_weights_that_cannot_be_mapped_are_loaded(tiny_files: ModelFiles, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"a pickle")
    encoder = FakeEncoder()
    assert load_text_encoder(ModelFiles(tiny_files.spec, weights), lambda: encoder) is encoder


def test_the_batch_size_and_the_device_are_the_ones_asked_for(tiny_files: ModelFiles) -> None:
    assert load_encoder(tiny_files, "cpu", 3).batch_size == 3
    with pytest.raises(DeviceError):
        load_encoder(tiny_files, "no such device")


def test_each_encoder_is_loaded_once_and_not_before_it_is_used() -> None:
    loaded: list[str] = []

    def load(which: str) -> FakeEncoder:
        loaded.append(which)
        return FakeEncoder()

    encoders = Encoders(lambda: load("text"), lambda: load("both"))
    assert loaded == []
    assert encoders.text is encoders.text
    assert loaded == ["text"]
    assert encoders.both is encoders.both
    assert loaded == ["text", "both"]


def test_many_texts_are_embedded_by_what_is_loaded_already() -> None:
    class Fast(FakeEncoder):
        def for_many_texts(self) -> FakeEncoder | None:  # type: ignore[override]
            return faster

    faster: FakeEncoder | None = FakeEncoder()
    encoders = Encoders(FakeEncoder, Fast)
    assert encoders.many_texts is encoders.text  # torch is not worth its loading
    assert encoders.both is not None
    assert encoders.many_texts is faster
    faster = None
    assert encoders.many_texts is encoders.text


def test_the_encoders_of_an_index_are_found_by_its_model(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.models import registry

    found: list[object] = []
    locate = registry.locate
    monkeypatch.setattr(registry, "locate", lambda spec: found.append(spec) or locate(spec))
    encoders = Encoders.of(tiny_files.spec, "cpu")
    assert found == []
    assert encoders.text.encode_texts(["a cat"]).shape == (1, 32)
    assert found == [tiny_files.spec]
    assert not isinstance(encoders.text, OpenClipEncoder)
    assert isinstance(encoders.both, OpenClipEncoder)
