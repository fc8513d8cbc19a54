"""open_clip says what is right: the same embeddings, from the same files, or an error."""

import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import make_picture
from PIL import Image
from safetensors.torch import load_file, save_file

from clipsearch.errors import BadCheckpoint, DeviceError, ModelError
from clipsearch.images.decode import decode
from clipsearch.models import fidelity, hub, registry, weights
from clipsearch.models import open_clip as encoder_module
from clipsearch.models.open_clip import OpenClipEncoder
from clipsearch.models.text_encoder import TextEncoder
from clipsearch.records import ModelFiles, Pixels, Vectors
from clipsearch.vectors import l2_normalise

TEXTS = ["a cat", "two red bicycles in the rain", "", "Ein Hund, 3 Katzen & ☃!", "word " * 100]


def resolve(name: str, pretrained: str | None = None) -> ModelFiles:
    return registry.resolve(name, pretrained, offline=True, notify=lambda _: None)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Image files of several formats, modes and shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    shapes = {"a.png": (48, 40), "b.png": (500, 300), "c.webp": (224, 400), "d.bmp": (30, 31)}
    for seed, (name, size) in enumerate(shapes.items()):
        make_picture(folder / name, seed, size)
    make_picture(folder / "grey.png", 4, (300, 200))
    Image.open(folder / "grey.png").convert("L").save(folder / "grey.png")
    make_picture(folder / "large.png", 5, (1200, 900))
    # Smooth, as photographs are: where blocks meet, a JPEG that is decoded smaller is not quite
    # the same image as one that is decoded whole and then made smaller.
    image = Image.open(folder / "large.png").resize((30, 20), Image.Resampling.BOX)
    image.resize((1200, 900), Image.Resampling.BICUBIC).save(folder / "large.jpg", quality=95)
    return sorted(folder.iterdir())


def embed(encoder: OpenClipEncoder, files: ModelFiles, paths: Sequence[Path]) -> Vectors:
    """As the program does it: decode, then encode."""
    decoded = [decode(os.fsencode(path), files.spec.preprocessing) for path in paths]
    return encoder.encode_images(np.stack([image.pixels for image in decoded]))


def pixels(count: int, size: int = 32) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def cosines(ours: Vectors, theirs: torch.Tensor) -> Vectors:
    """Of each of our rows with the same row of theirs, which must be the nearest of all."""
    rows = l2_normalise(theirs.numpy())
    assert ours.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    assert (ours @ rows.T).argmax(axis=1).tolist() == list(range(len(rows)))
    return np.sum(ours * rows, axis=1)


@torch.inference_mode()
def open_clips_own(
    model: Any, preprocess: Any, tokenizer: Any, paths: Sequence[Path], texts: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of images and texts as open_clip's README makes them."""
    model.eval()
    images = torch.stack([preprocess(Image.open(path)) for path in paths])
    return model.encode_image(images), model.encode_text(tokenizer(texts))


# -- equal to open_clip ------------------------------------------------------------------------


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_embeddings_are_open_clips(
    tiny_model: Path, tmp_path: Path, pictures: list[Path], resize_mode: str, interpolation: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    config = tmp_path / "model" / hub.CONFIG
    text = config.read_text().replace('"shortest"', f'"{resize_mode}"')
    config.write_text(text.replace('"bicubic"', f'"{interpolation}"'))
    name = f"local-dir:{tmp_path / 'model'}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    tokenizer = open_clip.get_tokenizer(name)
    images, texts = open_clips_own(model, preprocess, tokenizer, pictures, TEXTS)

    files = resolve(name)
    encoder = OpenClipEncoder(files, "cpu")
    least = 0.9999 if encoder.dtype == torch.float32 else 0.999
    assert cosines(embed(encoder, files, pictures), images).min() >= least
    assert cosines(encoder.encode_texts(TEXTS), texts).min() >= 0.9999


@pytest.fixture(scope="session")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache that holds a ViT-B-16 of random weights under the default's name."""
    repository = registry.DEFAULT_REPO.replace("/", "--")
    folder = tmp_path_factory.mktemp("hub") / f"models--{repository}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "snapshots" / "0123abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16")
    save_file(model.state_dict(), folder / "blobs" / "weights")
    link = folder / "snapshots" / "0123abc" / "open_clip_model.safetensors"
    link.symlink_to(os.path.join("..", "..", "blobs", "weights"))
    return folder.parent


@pytest.mark.process
def test_the_default_at_full_size_is_open_clips(
    full_size: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published weights need the network; these have their size, layout, name and loader."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(full_size))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    paths = [path for path in pictures if path.name in ("a.png", "b.png", "large.jpg")]
    model, preprocess = open_clip.create_model_from_pretrained(
        "ViT-B-16", "laion2b_s34b_b88k", cache_dir=str(full_size)
    )
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    images, texts = open_clips_own(model, preprocess, tokenizer, paths, TEXTS[:2])
    del model

    files = resolve("ViT-B-16")
    encoder = OpenClipEncoder(files, "cpu")
    least = 0.9999 if encoder.dtype == torch.float32 else 0.999
    assert cosines(embed(encoder, files, paths), images).min() >= least
    assert cosines(encoder.encode_texts(TEXTS[:2]), texts).min() >= 0.9999

    # And in the arithmetic that is chosen on other processors.
    monkeypatch.setattr(encoder_module, "_choose_dtype", lambda _: torch.bfloat16)
    encoder = OpenClipEncoder(files, "cpu")
    assert encoder.dtype == torch.bfloat16
    assert cosines(embed(encoder, files, paths), images).min() >= 0.999


def test_texts_are_open_clips_in_whatever_arithmetic_pictures_are_embedded(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text tower stays in fp32, as it is in the torch-free encoder of the same model."""
    monkeypatch.setattr(encoder_module, "_choose_dtype", lambda _: torch.bfloat16)
    rounded = OpenClipEncoder(tiny_files, "cpu").encode_texts(TEXTS)
    np.testing.assert_allclose(rounded, TextEncoder(tiny_files).encode_texts(TEXTS), atol=1e-5)


# -- loading -----------------------------------------------------------------------------------


def test_many_texts_in_bfloat16_are_nearly_open_clips(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"a {size} {what}" for size in ("red", "tiny") for what in ("cat", "dog", "boat")]
    monkeypatch.setattr(encoder_module, "_choose_dtype", lambda _: torch.bfloat16)
    encoder = OpenClipEncoder(tiny_files, "cpu")
    fast = encoder.for_many_texts()
    assert fast is not None
    threads = torch.get_num_threads()
    ours, exact = fast.encode_texts(texts), encoder.encode_texts(texts)
    assert torch.get_num_threads() == threads
    assert (ours * exact).sum(axis=1).min() >= 0.9999
    assert np.abs(ours - exact).max() > 1e-5, "the rounding shows"
    monkeypatch.setattr(fidelity, "TEXTS", 0.9999999)
    assert encoder.for_many_texts() is None
    monkeypatch.setattr(encoder_module, "supports", lambda _: False)
    assert encoder.for_many_texts() is None


def test_where_bfloat16_is_slow_numpy_embeds_many_texts(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "_choose_dtype", lambda _: torch.float32)
    assert OpenClipEncoder(tiny_files, "cpu").for_many_texts() is None


@pytest.fixture
def tensors(tiny_model: Path) -> dict[str, torch.Tensor]:
    return load_file(tiny_model / hub.WEIGHTS[0])


def with_weights(folder: Path, tiny_model: Path, content: object, name: str = "") -> ModelFiles:
    """The tiny model with other weights: tensors, or the very bytes of the file."""
    folder.mkdir(exist_ok=True)
    shutil.copy(tiny_model / hub.CONFIG, folder)
    path = folder / (name or hub.WEIGHTS[0])
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return resolve(str(folder))


def test_every_tensor_is_the_checkpoints_though_none_is_initialised(
    tiny_files: ModelFiles, tensors: dict[str, torch.Tensor]
) -> None:
    for _ in range(2):
        state = OpenClipEncoder(tiny_files, "cpu")._model.float().state_dict()
        assert state.keys() == tensors.keys()
        for name, tensor in state.items():
            # The image tower may have gone through bf16.
            torch.testing.assert_close(tensor, tensors[name], rtol=2**-8, atol=0, msg=name)


def test_loading_leaves_torchs_initialisers_as_they_were(tiny_files: ModelFiles) -> None:
    OpenClipEncoder(tiny_files, "cpu")
    assert torch.zeros(100).normal_().abs().sum() > 0
    assert torch.nn.init.uniform_(torch.zeros(100)).sum() > 0


def test_loading_twice_gives_the_same_embeddings(tiny_files: ModelFiles) -> None:
    first, second = (OpenClipEncoder(tiny_files, "cpu") for _ in range(2))
    if first.dtype == second.dtype:
        np.testing.assert_array_equal(
            first.encode_images(pixels(3)), second.encode_images(pixels(3))
        )
    np.testing.assert_array_equal(first.encode_texts(TEXTS), second.encode_texts(TEXTS))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_checkpoint_gives_the_same_embeddings(
    tmp_path: Path,
    tiny_model: Path,
    tiny_files: ModelFiles,
    tensors: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    wrapped: bool,
) -> None:
    monkeypatch.setattr(encoder_module, "_choose_dtype", lambda _: torch.float32)
    content = {"epoch": 3, "state_dict": tensors} if wrapped else tensors
    files = with_weights(tmp_path / "model", tiny_model, content, "open_clip_pytorch_model.bin")
    ours, theirs = OpenClipEncoder(files, "cpu"), OpenClipEncoder(tiny_files, "cpu")
    np.testing.assert_array_equal(ours.encode_images(pixels(3)), theirs.encode_images(pixels(3)))
    np.testing.assert_array_equal(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS))


class Code:
    """What a pickle can have called when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("called",)


def save_plainly(what: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(what))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, save_plainly])
def test_a_pickle_with_code_in_it_is_called_that_and_not_run(
    tmp_path: Path,
    tiny_files: ModelFiles,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[[object, Path], object],
) -> None:
    monkeypatch.chdir(tmp_path)
    save({"weights": Code()}, tmp_path / "weights.bin")
    with pytest.raises(BadCheckpoint, match="is a pickle that contains code, which is not run"):
        OpenClipEncoder(ModelFiles(tiny_files.spec, tmp_path / "weights.bin"), "cpu")
    (tmp_path / "weights.bin").write_bytes(b"no weights at all")
    with pytest.raises(BadCheckpoint, match="does not contain the weights"):
        OpenClipEncoder(ModelFiles(tiny_files.spec, tmp_path / "weights.bin"), "cpu")
    assert not (tmp_path / "called").exists()


def test_the_text_tower_of_a_pickled_checkpoint_is_kept_where_it_can_be_mapped(
    tmp_path: Path, tiny_model: Path, tensors: dict[str, torch.Tensor]
) -> None:
    files = with_weights(tmp_path / "model", tiny_model, tensors, "pytorch_model.bin")
    assert weights.mappable(files.weights) is None
    encoder = OpenClipEncoder(files, "cpu")
    kept = weights.mappable(files.weights)
    assert kept is not None
    assert kept.is_relative_to(tmp_path / "cache")
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert not any(name.startswith("visual.") for name in load_file(kept))
    np.testing.assert_allclose(
        TextEncoder(replace(files, weights=kept)).encode_texts(TEXTS),
        encoder.encode_texts(TEXTS),
        atol=1e-5,
    )


def test_a_text_tower_that_cannot_be_kept_costs_nothing_but_time(
    tmp_path: Path, tiny_model: Path, tensors: dict[str, torch.Tensor]
) -> None:
    files = with_weights(tmp_path / "model", tiny_model, tensors, "pytorch_model.bin")
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert OpenClipEncoder(files, "cpu").encode_texts(["a cat"]).shape == (1, 32)


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_code_in_a_checkpoint_is_refused_and_not_run(
    tmp_path: Path, tiny_model: Path, tensors: dict[str, torch.Tensor]
) -> None:
    marker = tmp_path / "marker"
    content = {**tensors, "code": Hostile(marker)}
    files = with_weights(tmp_path / "model", tiny_model, content, "open_clip_pytorch_model.bin")
    with pytest.raises(BadCheckpoint):
        OpenClipEncoder(files, "cpu")
    assert not marker.exists()
    torch.load(files.weights, weights_only=False)  # the file does what it is here for
    assert marker.exists()


def damaged(tensors: dict[str, torch.Tensor], how: str) -> object:
    if how == "a missing tensor":
        del tensors["visual.proj"]
    elif how == "an extra tensor":
        tensors["visual.extra"] = torch.zeros(3)
    elif how == "another shape":
        tensors["text_projection"] = torch.zeros(32, 64)
    elif how == "another architecture":
        return {"layer1.0.conv1.weight": torch.zeros(3, 3)}
    elif how == "no tensors":
        return {}
    elif how == "not a checkpoint":
        return b"<!DOCTYPE html><html>not found</html>"
    elif how == "an empty file":
        return b""
    return tensors


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize(
    "how",
    [
        "a missing tensor",
        "an extra tensor",
        "another shape",
        "another architecture",
        "no tensors",
        "not a checkpoint",
        "an empty file",
        "cut short",
    ],
)
def test_weights_that_do_not_fill_the_model_exactly_are_refused(
    tmp_path: Path, tiny_model: Path, tensors: dict[str, torch.Tensor], how: str, name: str
) -> None:
    files = with_weights(tmp_path / "model", tiny_model, damaged(tensors, how), name)
    if how == "cut short":
        os.truncate(files.weights, files.weights.stat().st_size - 1000)
    with pytest.raises(BadCheckpoint, match="does not contain the weights of") as caught:
        OpenClipEncoder(files, "cpu")
    assert str(files.weights) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_configuration_that_open_clip_cannot_build_is_refused(tiny_files: ModelFiles) -> None:
    model_cfg = {**tiny_files.spec.model_cfg, "text_cfg": {"layers": 2, "no_such_setting": 1}}
    spec = replace(tiny_files.spec, model_cfg=model_cfg)
    with pytest.raises(BadCheckpoint, match="open_clip cannot build"):
        OpenClipEncoder(replace(tiny_files, spec=spec), "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_tower_that_gives_no_numbers_is_an_error(
    tmp_path: Path,
    tiny_model: Path,
    tensors: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(encoder_module, "_choose_dtype", lambda _: dtype)
    tensors["visual.proj"] = torch.full_like(tensors["visual.proj"], float("nan"))
    files = with_weights(tmp_path / "model", tiny_model, tensors)
    with pytest.raises(ModelError, match="a vector without a direction") as caught:
        OpenClipEncoder(files, "cpu").encode_images(pixels(2))
    assert "damaged" in caught.value.hint


def test_a_text_tower_that_gives_no_numbers_is_an_error(
    tmp_path: Path, tiny_model: Path, tensors: dict[str, torch.Tensor]
) -> None:
    tensors["text_projection"] = torch.full_like(tensors["text_projection"], float("nan"))
    files = with_weights(tmp_path / "model", tiny_model, tensors)
    with pytest.raises(ModelError, match="a vector without a direction"):
        OpenClipEncoder(files, "cpu").encode_texts(["a cat"])
    with pytest.raises(ModelError):
        TextEncoder(files).encode_texts(["a cat"])


# -- devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["toaster", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(tiny_files: ModelFiles, device: str) -> None:
    with pytest.raises(DeviceError, match=f"the device '{device}' cannot be used") as caught:
        OpenClipEncoder(tiny_files, device)
    assert "--device auto or cpu" in caught.value.hint


def test_a_processor_without_units_for_bf16_computes_in_fp32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(encoder_module, "_matmul_seconds", lambda _: (2.0, 1.0))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert encoder_module._choose_dtype(cpu) == torch.bfloat16
    monkeypatch.setattr(encoder_module, "_matmul_seconds", lambda _: (2.0, 1.9))
    assert encoder_module._choose_dtype(cpu) == torch.float32
    monkeypatch.setattr(encoder_module, "_matmul_seconds", lambda _: pytest.fail("not asked"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert encoder_module._choose_dtype(cpu) == torch.float32
    # Some builds of torch do not even have the operator.
    monkeypatch.delattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert encoder_module._choose_dtype(cpu) == torch.float32


def test_arithmetic_that_loses_too_much_is_given_up(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "_choose_dtype", lambda _: torch.float32)
    exact = OpenClipEncoder(tiny_files, "cpu").encode_images(pixels(3))
    monkeypatch.setattr(encoder_module, "_choose_dtype", lambda _: torch.bfloat16)
    rounding = OpenClipEncoder(tiny_files, "cpu")
    assert rounding.dtype == torch.bfloat16
    assert np.abs(rounding.encode_images(pixels(3)) - exact).max() > 0

    encode = encoder_module.OpenClipEncoder.encode_images

    def worse_when_rounded(encoder: OpenClipEncoder, given: Pixels) -> Vectors:
        vectors = encode(encoder, given)
        return vectors if encoder.dtype == torch.float32 else vectors[::-1]

    monkeypatch.setattr(OpenClipEncoder, "encode_images", worse_when_rounded)
    encoder = OpenClipEncoder(tiny_files, "cpu")
    assert encoder.dtype == torch.float32
    np.testing.assert_array_equal(encoder.encode_images(pixels(3)), exact)


class SmallMemory:
    """An image tower on a device with room for so many images at once."""

    def __init__(self, encoder: OpenClipEncoder, room: int) -> None:
        self.embedded: list[int] = []
        self._room, self._encode = room, encoder._model.encode_image
        encoder._model.encode_image = self.encode_image

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self._room:
            raise torch.OutOfMemoryError("out of memory")
        self.embedded.append(len(x))
        return self._encode(x)


def test_a_batch_that_is_too_large_for_the_device_is_halved(tiny_files: ModelFiles) -> None:
    encoder = OpenClipEncoder(tiny_files, "cpu", batch_size=9)
    batch = pixels(9)
    whole = encoder.encode_images(batch)
    memory = SmallMemory(encoder, room=2)
    halved = encoder.encode_images(batch)
    assert sum(memory.embedded) == 9
    least = 1 - 1e-5 if encoder.dtype == torch.float32 else 0.9999
    assert np.sum(halved * whole, axis=1).min() > least
    assert encoder.batch_size <= 2  # the next batch is not tried at the old size


def test_a_device_without_memory_for_one_picture_is_an_error(tiny_files: ModelFiles) -> None:
    encoder = OpenClipEncoder(tiny_files, "cpu")
    SmallMemory(encoder, room=0)
    with pytest.raises(DeviceError, match="enough memory for one image") as caught:
        encoder.encode_images(pixels(3))
    assert "--device cpu" in caught.value.hint


def test_a_batch_size_that_was_asked_for_is_kept(tiny_files: ModelFiles) -> None:
    assert OpenClipEncoder(tiny_files, "cpu", batch_size=3).batch_size == 3
    assert OpenClipEncoder(tiny_files, "cpu").batch_size > 3
