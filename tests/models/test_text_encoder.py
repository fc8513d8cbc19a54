"""The numpy text tower against open_clip's: same texts, same weights, same vectors."""

import json
import math
import struct
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY_CONFIG
from open_clip.factory import load_checkpoint
from open_clip.model import _build_text_tower
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from safetensors.torch import save_file

from clipsearch.domain import taxonomy
from clipsearch.errors import BadCheckpoint, ModelError
from clipsearch.models import registry, text_encoder
from clipsearch.models.text_encoder import Prefixes, TextEncoder, supports
from clipsearch.models.tokenizer import tokenize
from clipsearch.records import ModelFiles

TEXTS = [
    *("", "a", "a photo of a cat", "a photo of a dog.", "A PHOTO OF A DOG.", "zebra crossing"),
    *("two people & a boat", "it's raining", "caf\u00e9 au lait", "\u65e5\u672c\u306e\u5199\u771f"),
    *("\U0001f408\u200d\u2b1b on a mat", "&lt;b&gt;", "12:34", "  spaces  ", "!?", "\ufffd"),
    *("the red end <end_of_text> and more", "<start_of_text>", "cat " * 76, "dog " * 300),
    *(f"a {size} {thing}" for size in ("tiny", "huge") for thing in ("house", "tree", "fish")),
]


def make_model(
    folder: Path, *, top: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None
) -> tuple[ModelFiles, torch.nn.Module]:
    """A model folder, and open_clip's own model of it.

    Unlike fresh ones, the weights leave nothing out: no bias is zero, no gain is one.
    """
    config = deepcopy(TINY_CONFIG)
    config["model_cfg"] |= top or {}
    config["model_cfg"]["text_cfg"] |= text or {}  # type: ignore[operator]
    torch.manual_seed(3)
    settings = dict(config["model_cfg"])
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    model = kind(**settings).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return store(folder, model), model


def store(folder: Path, model: torch.nn.Module) -> ModelFiles:
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return registry.resolve(str(folder), None, offline=True, notify=lambda _: None)


@torch.inference_mode()
def open_clips(model: Any, texts: list[str]) -> np.ndarray:
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    vectors = model.encode_text(tokenizer(texts), normalize=True).numpy()
    assert np.ptp(vectors @ vectors.T) > 0.3, "the texts' vectors differ, so agreeing means much"
    return vectors


VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "QuickGELU": {"top": {"quick_gelu": True}},
    "text tower of its own": {"top": {"custom_text": True}},
    "both": {"top": {"custom_text": True, "quick_gelu": True}},
    "short context": {"text": {"context_length": 16}},
    "other sizes": {"text": {"width": 48, "heads": 4, "layers": 3, "mlp_ratio": 2.5}},
    "one layer": {"text": {"layers": 1, "heads": 1}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_are_open_clips(variant: str, tmp_path: Path) -> None:
    files, model = make_model(tmp_path / "model", **VARIANTS[variant])
    assert supports(files.spec)
    ours = TextEncoder(files).encode_texts(TEXTS)
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), files.spec.dim)
    np.testing.assert_allclose(ours, open_clips(model, TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_the_variants_are_not_the_same_model(tmp_path: Path) -> None:
    plain, _ = make_model(tmp_path / "plain")
    quick, _ = make_model(tmp_path / "quick", top={"quick_gelu": True})
    difference = TextEncoder(plain).encode_texts(TEXTS) - TextEncoder(quick).encode_texts(TEXTS)
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_may_be_stored_in_another_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    _, model = make_model(tmp_path / "model")
    unrounded = open_clips(model, TEXTS)
    files = store(tmp_path / "model", model.to(dtype))
    rounded = open_clips(model.to(torch.float32), TEXTS)
    ours = TextEncoder(files).encode_texts(TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, rounded, atol=1e-5)
    if dtype != torch.float64:
        assert np.abs(rounded - unrounded).max() > 1e-5, "the rounding shows"


def test_a_text_has_the_same_vector_alone_and_in_company(tiny_files: ModelFiles) -> None:
    encoder = TextEncoder(tiny_files)
    together = encoder.encode_texts(TEXTS)
    alone = np.concatenate([encoder.encode_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_what_texts_have_in_common_changes_no_vector(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_encoder, "_ROWS_AT_ONCE", 16)  # many parts, in threads
    monkeypatch.setattr(text_encoder, "_ROWS_OF_ATTENTION", 5)
    things = [f"{size} {thing}" for size in ("red", "big") for thing in ("cat", "dog", "ship")]
    texts = [form.format(thing) for thing in things for form in ("a {}", "a photo of a {}.", "{}")]
    texts += [*TEXTS, texts[3], "", texts[0], "cat " * 75 + "dog", "cat " * 75 + "ship"]
    model = open_clip.CLIP(**deepcopy(TINY_CONFIG["model_cfg"])).eval()  # type: ignore[arg-type]
    load_checkpoint(model, str(tiny_files.weights))
    tokens = SimpleTokenizer(context_length=model.context_length)(texts)
    with torch.inference_mode():
        theirs = model.encode_text(tokens, normalize=True).numpy()
    ours = TextEncoder(tiny_files).encode_texts(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert TextEncoder(tiny_files).encode_texts([]).shape == (0, 32)


def test_each_beginning_is_one_row_and_sees_its_own_beginnings() -> None:
    texts = [(1, 5, 9), (1, 5, 6, 9), (1, 9), (1, 5, 9), (1, 5, 6, 7, 9), (1, 8, 6, 9)]
    prefixes = Prefixes(texts)
    rows = [(1,), (1, 5), (1, 5, 6), (1, 5, 6, 7), (1, 5, 6, 7, 9), (1, 5, 6, 9), (1, 5, 9)]
    rows += [(1, 8), (1, 8, 6), (1, 8, 6, 9), (1, 9)]  # and not 21, one for each token
    assert [row[-1] for row in rows] == prefixes.tokens.tolist()
    assert [len(row) - 1 for row in rows] == prefixes.positions.tolist()
    assert [rows[prefixes.ends[n]] for n in prefixes.texts] == texts
    for some in ([0], [3, 4, 5, 6], [9, 10], list(range(len(rows))), [4, 6, 10]):
        keys, mask = prefixes.seen_from(np.array(some))
        for row, line in zip(some, mask, strict=True):
            seen = [rows[key] for key, plus in zip(keys, line, strict=True) if plus == 0]
            assert seen == [rows[row][:n] for n in range(1, len(rows[row]) + 1)]


def test_the_tower_computes_each_beginning_once(tiny_files: ModelFiles) -> None:
    class Counting:
        def __init__(self) -> None:
            self.rows: Counter[str] = Counter()

        def linear(self, x: Any, weight: str, bias: str) -> Any:
            self.rows[weight] += len(x)
            return own.linear(x, weight, bias)

        def gelu(self, x: Any) -> Any:
            return own.gelu(x)

    own = TextEncoder(tiny_files)._arithmetic
    counting = Counting()
    domain = taxonomy.load(taxonomy.DEFAULT)
    texts = [text for n in range(40) for text in domain.prompts(n)]
    ids = [tuple(tokenize(text, 77)) for text in [*texts, texts[0]]]
    TextEncoder(tiny_files, counting).encode_texts([*texts, texts[0]])
    beginnings = {text[:n] for text in ids for n in range(1, len(text) + 1)}
    assert len(beginnings) < 0.45 * sum(map(len, ids))
    first, last = "transformer.resblocks.0.", "transformer.resblocks.1."
    assert counting.rows[first + "attn.in_proj_weight"] == len(beginnings)
    assert counting.rows[first + "mlp.c_fc.weight"] == len(beginnings)
    assert counting.rows[last + "attn.in_proj_weight"] == len(beginnings)
    assert counting.rows[last + "mlp.c_fc.weight"] == len(texts)  # whole ones, and those once


def test_weights_are_mapped_and_not_copied(tiny_files: ModelFiles) -> None:
    encoder = TextEncoder(tiny_files)
    table = encoder._get("token_embedding.weight")
    assert table.shape == (49408, 32)
    assert not table.flags.owndata
    assert not table.flags.writeable


@pytest.mark.process
def test_encoding_a_text_leaves_torch_out(tiny_model: Path) -> None:
    program = textwrap.dedent(
        """
        import sys
        from clipsearch.models import registry
        from clipsearch.models.text_encoder import TextEncoder, supports
        files = registry.resolve(sys.argv[1], None, offline=True, notify=print)
        assert supports(files.spec)
        vectors = TextEncoder(files).encode_texts(["a cat", "un caf\u00e9"])
        assert vectors.shape == (2, 32)
        heavy = {"torch", "open_clip", "torchvision", "scipy", "safetensors"} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    subprocess.run([sys.executable, "-c", program, tiny_model], check=True)


# ---------------------------------------------------------------- which models


UNSUPPORTED: list[dict[str, Any]] = [
    {"hf_model_name": "roberta-base"},
    {"hf_tokenizer_name": "bert-base-uncased"},
    {"tokenizer_kwargs": {"clean": "canonicalize"}},
    {"no_causal_mask": True},
    {"embed_cls": True},
    {"pool_type": "last"},
    {"pool_type": "eos"},
    {"proj_type": "none"},
    {"proj_bias": True},
    {"ls_init_value": 1e-4},
    {"act_kwargs": {"approximate": "tanh"}},
    {"norm_kwargs": {"eps": 1e-6}},
    {"qk_norm": True},
    {"scaled_cosine_attn": True},
    {"scale_heads": True},
    {"scale_attn_inner": True},
    {"scale_attn": True},
    {"scale_fc": True},
    {"block_type": "custom"},
]


@pytest.mark.parametrize("setting", UNSUPPORTED, ids=lambda s: "-".join(map(str, *s.items())))
def test_other_text_towers_are_left_to_open_clip(
    setting: dict[str, Any], tiny_files: ModelFiles
) -> None:
    assert supports(tiny_files.spec)
    model_cfg = deepcopy(dict(tiny_files.spec.model_cfg))
    model_cfg["text_cfg"] |= setting
    assert not supports(replace(tiny_files.spec, model_cfg=model_cfg))


def test_a_tower_that_also_writes_captions_is_left_to_open_clip(tiny_files: ModelFiles) -> None:
    model_cfg = {**tiny_files.spec.model_cfg, "multimodal_cfg": {}}
    assert not supports(replace(tiny_files.spec, model_cfg=model_cfg))


def test_defaults_that_are_spelt_out_change_nothing(tiny_files: ModelFiles) -> None:
    model_cfg = deepcopy(dict(tiny_files.spec.model_cfg))
    model_cfg["text_cfg"] |= {"pool_type": "argmax", "embed_cls": False, "norm_kwargs": None}
    assert supports(replace(tiny_files.spec, model_cfg=model_cfg))


@pytest.mark.process
def test_of_open_clips_architectures_exactly_those_that_fit_are_supported(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_clip.factory.SimpleTokenizer", dict)  # takes long to make
    towers: dict[str, Any] = {}  # many architectures share a text tower
    supported = []
    for name in registry.architectures():
        model_cfg = open_clip.get_model_config(name)
        text_cfg = model_cfg["text_cfg"]
        spec = replace(tiny_files.spec, name=name, model_cfg=model_cfg)
        if not supports(spec):
            continue
        supported.append(name)
        key = f"{model_cfg['embed_dim']} {text_cfg}"
        if key not in towers:
            with torch.device("meta"):
                towers[key] = _build_text_tower(model_cfg["embed_dim"], text_cfg)
        tower = towers[key]
        assert type(tower) is TextTransformer, name
        assert tower.pool_type == "argmax", name
        assert tower.attn_mask is not None, name
        shapes = {key: tuple(tensor.shape) for key, tensor in tower.state_dict().items()}
        assert text_encoder._shapes(spec) == shapes, name
        context_length = text_cfg["context_length"]
        assert open_clip.get_tokenizer(name) == {"context_length": context_length}, name
    assert {"ViT-B-16", "ViT-B-32-quickgelu", "ViT-L-14", "RN50", "convnext_base"} <= set(supported)
    assert not any("SigLIP" in name or "coca" in name or "roberta" in name for name in supported)


# ---------------------------------------------------------------- files that are none


@pytest.fixture
def damaged(tiny_files: ModelFiles, tmp_path: Path) -> ModelFiles:
    """The tiny model with its weights in a file of its own, to be spoilt."""
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(tiny_files.weights.read_bytes())
    return replace(tiny_files, weights=copy)


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_header(path: Path, header: object, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 20, 1000, 5000, 100_000, -4, -1])
def test_weights_that_were_cut_short_are_a_bad_checkpoint(keep: int, damaged: ModelFiles) -> None:
    # The last tensors of the file are the image tower's, so it is put in front of the others.
    header, data = read_header(damaged.weights)
    last = max(
        (entry["data_offsets"][1], name)
        for name, entry in header.items()
        if not name.startswith(("visual.", "__"))
    )
    write_header(damaged.weights, header, data[: last[0]])
    TextEncoder(damaged)
    damaged.weights.write_bytes(damaged.weights.read_bytes()[:keep])
    with pytest.raises(BadCheckpoint, match=r"weights\.safetensors"):
        TextEncoder(damaged)


@pytest.mark.parametrize(
    "content",
    [
        b"this is no model at all, but some text",
        b"PK\x03\x04" + bytes(200),
        b"\x80\x02}q\x00." + bytes(100),
        struct.pack("<Q", 1) + b"5" + bytes(64),
        struct.pack("<Q", 2) + b"[]" + bytes(64),
        struct.pack("<Q", 2) + b"{}" + bytes(64),
        struct.pack("<Q", 4) + b"null" + bytes(64),
        struct.pack("<Q", 3) + b"{\xff}" + bytes(64),
        struct.pack("<Q", 2**63) + bytes(64),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
    ids=lambda content: ascii(content[:12]),
)
def test_another_kind_of_file_is_a_bad_checkpoint(content: bytes, damaged: ModelFiles) -> None:
    damaged.weights.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"weights\.safetensors"):
        TextEncoder(damaged)


def test_a_file_that_is_not_there_is_a_bad_checkpoint(damaged: ModelFiles) -> None:
    damaged.weights.unlink()
    with pytest.raises(BadCheckpoint, match="No such file"):
        TextEncoder(damaged)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "I64"},
        {"dtype": ["F32"]},
        {"shape": [32, 33]},
        {"shape": [1024]},
        {"shape": "32 x 32"},
        {"data_offsets": [0, 10**9]},
        {"data_offsets": [10**30, 10**30 + 4096]},
        {"data_offsets": [4096, 0]},
        {"data_offsets": [0]},
        {"data_offsets": None},
    ],
    ids=str,
)
def test_a_header_that_lies_is_a_bad_checkpoint(
    change: dict[str, Any], damaged: ModelFiles
) -> None:
    header, data = read_header(damaged.weights)
    header["text_projection"] |= change
    write_header(damaged.weights, header, data)
    with pytest.raises(BadCheckpoint, match="text_projection"):
        TextEncoder(damaged)


@pytest.mark.parametrize(
    "name", ["text_projection", "ln_final.bias", "transformer.resblocks.1.attn.out_proj.bias"]
)
def test_a_missing_tensor_is_a_bad_checkpoint(name: str, damaged: ModelFiles) -> None:
    header, data = read_header(damaged.weights)
    del header[name]
    write_header(damaged.weights, header, data)
    with pytest.raises(BadCheckpoint, match=name):
        TextEncoder(damaged)


@pytest.mark.parametrize(
    "setting",
    [
        *({"width": 64}, {"layers": 3}, {"vocab_size": 32100}, {"context_length": 64}),
        {"mlp_ratio": 2.0},
    ],
    ids=str,
)
def test_weights_of_another_architecture_are_a_bad_checkpoint(
    setting: dict[str, Any], tiny_files: ModelFiles
) -> None:
    model_cfg = deepcopy(dict(tiny_files.spec.model_cfg))
    model_cfg["text_cfg"] |= setting
    spec = replace(tiny_files.spec, model_cfg=model_cfg)
    with pytest.raises(BadCheckpoint):
        TextEncoder(replace(tiny_files, spec=spec))


def test_weights_that_make_no_vector_are_a_model_error(damaged: ModelFiles) -> None:
    header, data = read_header(damaged.weights)
    begin, end = header["ln_final.weight"]["data_offsets"]
    spoilt = np.full((end - begin) // 4, np.nan, "<f4").tobytes()
    write_header(damaged.weights, header, data[:begin] + spoilt + data[end:])
    with pytest.raises(ModelError, match="without a direction"):
        TextEncoder(damaged).encode_texts(["a cat"])


def test_that_is_so_in_threads_too_and_nothing_is_warned_of(damaged: ModelFiles) -> None:
    header, data = read_header(damaged.weights)
    begin, end = header["transformer.resblocks.0.ln_1.weight"]["data_offsets"]
    spoilt = np.full((end - begin) // 4, np.inf, "<f4").tobytes()
    write_header(damaged.weights, header, data[:begin] + spoilt + data[end:])
    with pytest.raises(ModelError, match="without a direction"):
        TextEncoder(damaged).encode_texts([f"{n} cats" for n in range(200)])


# ---------------------------------------------------------------- arithmetic


def test_gelu_is_that_of_the_standard_librarys_erf() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20_001), [0.0, -0.0, 1e-30, -1e-30, 40.0, -40.0]])
    x = x.astype(np.float32)
    exact = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()]
    assert np.abs(text_encoder._gelu(x) - exact).max() < 1e-6


def test_the_activations_are_torchs() -> None:
    x = np.linspace(-12, 12, 5_001, dtype=np.float32)
    gelu = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(text_encoder._gelu(x), gelu, atol=2e-6)
    quick = open_clip.transformer.QuickGELU()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(text_encoder._quick_gelu(x), quick, atol=2e-6)
    assert np.abs(gelu - quick).max() > 0.01
