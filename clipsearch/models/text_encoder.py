"""open_clip's causal text tower in numpy, over weights that are memory-mapped and not loaded.

A query of five words needs seven rows of the token table and one pass through the layers, so torch
is not needed. The tower is causal: tokens after the end-of-text token cannot change its output, so
texts are cut there instead of being padded to the context. Later tokens also cannot change earlier
ones, so a common prefix of several texts is computed only once.

The arithmetic is that of open_clip's TextTransformer with ResidualAttentionBlock: pre-norm
attention and an MLP with GELU (or QuickGELU), a final norm, the features at the end-of-text token,
and a projection. tests/test_text_encoder.py compares the two.
"""

import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.errors import BadCheckpoint, ModelError
from clipsearch.models.tokenizer import tokenize
from clipsearch.records import ModelFiles, ModelSpec, Vectors
from clipsearch.vectors import l2_normalise

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

_LAYER_NORM_EPS = 1e-5
"""torch.nn.LayerNorm's default, which open_clip does not change."""

_ROWS_AT_ONCE = 256
"""Enough for an efficient matrix product, and few enough to keep intermediate results cached."""

_ROWS_OF_ATTENTION = 64
"""Attention scores are a dense matrix that is mostly masked; few rows keep it small."""

_FEW_ROWS = 32

_QUIETLY = partial(np.errstate, invalid="ignore", over="ignore")
"""NaN and infinity are reported as an error, without warnings; must be set in each thread."""

_PLAIN = {
    **dict.fromkeys(("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs")),
    **dict.fromkeys(("act_kwargs", "norm_kwargs", "block_type", "ls_init_value")),
    **dict.fromkeys(("embed_cls", "no_causal_mask", "proj_bias", "qk_norm"), False),
    **dict.fromkeys(("scaled_cosine_attn", "scale_heads", "scale_attn_inner"), False),
    **dict.fromkeys(("scale_attn", "scale_fc"), False),
    "pool_type": "argmax",
    "proj_type": "linear",
}
"""The only values of these open_clip settings that this tower implements."""


def supports(spec: ModelSpec) -> bool:
    """Whether this tower can replace open_clip's for this model; other models need torch."""
    text_cfg = spec.model_cfg["text_cfg"]
    return "multimodal_cfg" not in spec.model_cfg and all(
        text_cfg.get(key, plain) == plain for key, plain in _PLAIN.items()
    )


def _shapes(spec: ModelSpec) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the text tower's tensors in open_clip's model for this configuration."""
    text_cfg = spec.model_cfg["text_cfg"]
    width = int(text_cfg.get("width", 512))
    hidden = int(width * text_cfg.get("mlp_ratio", 4.0))
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (int(text_cfg.get("vocab_size", 49408)), width),
        "positional_embedding": (int(text_cfg.get("context_length", 77)), width),
        "text_projection": (width, spec.dim),
    }
    norms = ["ln_final"]
    for layer in range(int(text_cfg.get("layers", 12))):
        block = f"transformer.resblocks.{layer}."
        norms += [block + "ln_1", block + "ln_2"]
        shapes |= {
            block + "attn.in_proj_weight": (3 * width, width),
            block + "attn.in_proj_bias": (3 * width,),
            block + "attn.out_proj.weight": (width, width),
            block + "attn.out_proj.bias": (width,),
            block + "mlp.c_fc.weight": (hidden, width),
            block + "mlp.c_fc.bias": (hidden,),
            block + "mlp.c_proj.weight": (width, hidden),
            block + "mlp.c_proj.bias": (width,),
        }
    return shapes | {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}


class Arithmetic(Protocol):
    """The operations that take most of the tower's time; must be thread-safe."""

    def linear(self, x: Floats, weight: str, bias: str) -> Floats:
        """A linear layer, ``(n, in)`` to ``(n, out)``. weight, bias: tensor names in the file."""

    def gelu(self, x: Floats) -> Floats:
        """x times the normal distribution's cumulative function, elementwise."""


class _Float32:
    """numpy's arithmetic on the mapped weights."""

    def __init__(self, weights: "_Safetensors") -> None:
        self._weights = weights

    def linear(self, x: Floats, weight: str, bias: str) -> Floats:
        matrix = self._weights.read(weight)
        # For a few rows, OpenBLAS takes a third less time with the large matrix first.
        product: Floats = (matrix @ x.T).T if len(x) <= _FEW_ROWS else x @ matrix.T
        return product + self._weights.read(bias)

    def gelu(self, x: Floats) -> Floats:
        return _gelu(x)


class TextEncoder:
    """Texts to unit vectors."""

    def __init__(self, files: ModelFiles, arithmetic: "Arithmetic | None" = None) -> None:
        """Map the weights, which must be safetensors. Raises BadCheckpoint if they do not fit.

        Only for models that ``supports`` accepts. arithmetic: default is numpy's, in float32.
        """
        text_cfg = files.spec.model_cfg["text_cfg"]
        self._context_length = int(text_cfg.get("context_length", 77))
        self._dim = files.spec.dim
        self._layers = int(text_cfg.get("layers", 12))
        self._label = files.spec.label
        self._heads = int(text_cfg.get("heads", 8))
        self._quick_gelu = bool(files.spec.model_cfg.get("quick_gelu", False))
        self._weights = _Safetensors(files.weights)
        self._arithmetic = arithmetic or _Float32(self._weights)
        # open_clip's CLIP has the text tower's tensors at the top level, CustomTextCLIP in "text.".
        self._prefix = "" if "ln_final.weight" in self._weights else "text."
        for name, shape in _shapes(files.spec).items():
            self._weights.check(self._prefix + name, shape)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed ``n`` texts as ``(n, dim)`` unit vectors, float32. Raises ModelError."""
        ids = [tuple(tokenize(text, self._context_length)) for text in texts]
        if not ids:
            return np.empty((0, self._dim), np.float32)
        prefixes = Prefixes(ids)
        features = self._features(prefixes)[prefixes.texts]
        try:
            return l2_normalise(features)
        except ValueError as error:
            raise ModelError(
                f"{self._label} gave {error}", hint="Its weights may be damaged."
            ) from error

    def _features(self, prefixes: "Prefixes") -> Floats:
        """Features of the distinct texts, ``(texts, dim)``."""
        x = self._rows("token_embedding.weight", prefixes.tokens)  # (prefixes, width)
        x = x + self._rows("positional_embedding", prefixes.positions)
        everything = np.arange(len(x))
        qkv = np.empty((len(x), 3 * x.shape[1]), np.float32)
        with _Workers(len(x)) as workers:
            for layer in range(self._layers):
                block = f"transformer.resblocks.{layer}."
                # After the last layer, only the rows of whole texts are needed.
                rows = everything if layer < self._layers - 1 else prefixes.ends

                def project(some: Rows, block: str = block) -> None:
                    inner = self._norm(x[some], block + "ln_1")
                    qkv[some] = self._linear(inner, block + "attn.in_proj_")

                def finish(some: Rows, block: str = block) -> None:
                    y = x[some] + self._attention(qkv, prefixes, some, block + "attn.out_proj.")
                    x[some] = y + self._mlp(self._norm(y, block + "ln_2"), block + "mlp.")

                workers.each(project, everything)
                workers.each(finish, rows)
        with _QUIETLY():
            end = self._norm(x[prefixes.ends], "ln_final")  # (texts, width)
            features: Floats = end @ self._get("text_projection")
        return features

    def _attention(self, qkv: Floats, prefixes: "Prefixes", rows: Rows, name: str) -> Floats:
        """The attention output of some ascending rows, over the prefixes that they extend."""
        width = qkv.shape[1] // 3
        size = width // self._heads
        mixed = np.empty((len(rows), width), np.float32)
        for start in range(0, len(rows), _ROWS_OF_ATTENTION):
            some = rows[start : start + _ROWS_OF_ATTENTION]
            keys, mask = prefixes.seen_from(some)
            q = qkv[some, :width].reshape(-1, self._heads, size).swapaxes(0, 1)
            k, v = qkv[keys, width:].reshape(-1, 2, self._heads, size).transpose(1, 2, 0, 3)
            scores = q / np.float32(math.sqrt(size)) @ k.swapaxes(1, 2)  # (heads, rows, keys)
            scores += mask
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            mixed[start : start + len(some)] = (scores @ v).swapaxes(0, 1).reshape(-1, width)
        return self._linear(mixed, name)

    def _mlp(self, x: Floats, name: str) -> Floats:
        hidden = self._linear(x, name + "c_fc.")
        hidden = _quick_gelu(hidden) if self._quick_gelu else self._arithmetic.gelu(hidden)
        return self._linear(hidden, name + "c_proj.")

    def _linear(self, x: Floats, name: str) -> Floats:
        return self._arithmetic.linear(
            x, self._prefix + name + "weight", self._prefix + name + "bias"
        )

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled: Floats = centred / np.sqrt(variance + np.float32(_LAYER_NORM_EPS))
        return scaled * self._get(name + ".weight") + self._get(name + ".bias")

    def _get(self, name: str) -> Floats:
        return self._weights.read(self._prefix + name)

    def _rows(self, name: str, rows: npt.NDArray[np.intp]) -> Floats:
        return self._weights.read(self._prefix + name, rows)


class Prefixes:
    """The distinct prefixes of texts, one row each.

    A causal tower's state at a token depends only on that token and the ones before it, so texts
    with a common prefix share it. The rows are the nodes of the trie of all texts in preorder: a
    prefix comes directly before everything that starts with it.
    """

    def __init__(self, ids: Sequence[tuple[int, ...]]) -> None:
        """ids: token ids of one or more texts of any length, each with its end-of-text token."""
        tokens: list[int] = []
        positions: list[int] = []
        until: list[int] = []
        end: dict[tuple[int, ...], int] = {}  # a text -> its row among the distinct ones
        ends: list[int] = []
        before: tuple[int, ...] = ()
        path: list[int] = []  # the rows of its prefixes
        for text in sorted(set(ids)):
            alike = takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False))
            shared = sum(1 for _ in alike)
            for row in path[shared:]:
                until[row] = len(tokens)
            del path[shared:]
            for position in range(shared, len(text)):
                path.append(len(tokens))
                tokens.append(text[position])
                positions.append(position)
                until.append(0)
            end[text] = len(ends)
            ends.append(path[-1])
            before = text
        for row in path:
            until[row] = len(tokens)
        self.tokens = np.array(tokens)
        """``(prefixes,)``: the last token of each prefix."""
        self.positions = np.array(positions)
        """``(prefixes,)``: how many tokens come before it."""
        self._until = np.array(until)  # (prefixes,): the first row after those that extend it
        self.ends = np.array(ends)
        """``(distinct texts,)``: the rows of whole texts, ascending."""
        self.texts = np.array([end[text] for text in ids])
        """``(n,)``: for each text, its index in ``ends``."""

    def seen_from(self, rows: Rows) -> tuple[Rows, Floats]:
        """The rows that ascending ``rows`` attend to, and the mask ``(rows, keys)`` to add."""
        first, last = rows[0], rows[-1]
        # In preorder, the first row extends every earlier row that any of these rows extends.
        before = np.flatnonzero(self._until[:first] > first)
        keys = np.concatenate([before, np.arange(first, last + 1)])
        below = rows[:, np.newaxis]
        seen = (keys <= below) & (below < self._until[keys])
        return keys, np.where(seen, np.float32(0), np.float32(-np.inf))


class _Workers:
    """Threads for many rows: numpy releases Python's lock."""

    def __init__(self, rows: int) -> None:
        self._count = os.cpu_count() or 1
        self._threads: Any = None
        if rows > _ROWS_AT_ONCE:
            from concurrent.futures import ThreadPoolExecutor  # here: no query needs it

            self._threads = ThreadPoolExecutor(self._count)

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads:
            self._threads.shutdown()

    def each(self, work: Callable[[Rows], None], rows: Rows) -> None:
        """Do the work on all rows, a few at a time."""

        def quietly(some: Rows) -> None:
            with _QUIETLY():
                work(some)

        if self._threads is None:
            quietly(rows)
            return
        parts = self._count * math.ceil(len(rows) / (self._count * _ROWS_AT_ONCE))
        for _ in self._threads.map(
            quietly, (some for some in np.array_split(rows, parts) if some.size)
        ):
            pass  # raises a thread's error here


def _gelu(x: Floats) -> Floats:
    """x times the normal distribution's cumulative function, the default of torch's GELU.

    Abramowitz and Stegun, formula 7.1.26, with an error of at most 1.5e-7: numpy has no error
    function, and importing scipy would take longer than the query.
    """
    size = np.abs(x)
    t = 1 / (1 + np.float32(_ERFC_P * math.sqrt(0.5)) * size)
    erfc = np.zeros_like(t)
    for coefficient in reversed(_ERFC_A):
        erfc += np.float32(coefficient)
        erfc *= t
    erfc *= np.exp(np.square(x) * np.float32(-0.5))
    gelu: Floats = np.maximum(x, 0)
    gelu -= np.float32(0.5) * size * erfc
    return gelu


_ERFC_P = 0.3275911
_ERFC_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _quick_gelu(x: Floats) -> Floats:
    out: Floats = x / (1.0 + np.exp(np.float32(-1.702) * x))
    return out


class _Safetensors:
    """Tensors of a safetensors file as views of its mapped bytes.

    The format is the header's length in eight bytes, a JSON header with each tensor's dtype, shape
    and offsets, and the data. The library's own reader copies what it reads; a view of fp32 weights
    costs nothing, and consecutive processes share the page cache.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                self._header: Mapping[str, Any] = dict(json.loads(file.read(length)))
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except _DAMAGE as error:
            raise BadCheckpoint(f"{path} is not a safetensors file: {error}") from error
        self._start = 8 + length
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._header

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise BadCheckpoint unless there is a usable tensor of this name and shape."""
        found = self._stored(name).shape
        if found != shape:
            raise BadCheckpoint(
                f"{self._path} does not contain the weights of this model: the shape of '{name}' "
                f"is {found}, and should be {shape}"
            )

    def read(self, name: str, rows: npt.NDArray[np.intp] | None = None) -> Floats:
        """A tensor, or some of its rows, as float32; a view where the file holds float32."""
        stored = self._stored(name)
        if rows is not None:
            stored = stored[rows]
        if self._header[name]["dtype"] == "BF16":  # the upper half of a float32
            widened: Floats = (stored.astype(np.uint32) << 16).view(np.float32)
            return widened
        values: Floats = stored.astype(np.float32, copy=False)
        return values

    def _stored(self, name: str) -> npt.NDArray[Any]:
        try:
            entry = self._header[name]
            begin, end = entry["data_offsets"]
            dtype = _DTYPES[entry["dtype"]]
            return np.frombuffer(
                self._bytes, dtype, (end - begin) // dtype.itemsize, self._start + begin
            ).reshape(entry["shape"])
        except (*_DAMAGE, KeyError) as error:
            raise BadCheckpoint(f"{self._path} does not have a usable tensor '{name}'") from error


_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)
"""Errors from reading a file that is cut short, damaged or of another format."""

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}
