"""The text tower: open_clip's own causal CLIP text transformer, distilled from the teacher.

Loss: 1 - cos(student(text), target); `aims` defines the targets. Each batch has texts with the same
number of tokens, cut at the end-of-text token. The cut changes nothing: the transformer is causal
and is read out at that token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor

CONTEXT_LENGTH = 32
WIDTH = 256
HEADS = 4
LAYERS = 4
MLP_RATIO = 3.5  # instead of the usual 4, to keep both files together under 45 MB
VOCABULARY = 49408


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokenized texts: tokens (n, 32) uint16 padded with 0, lengths (n,) with both end tokens."""

    tokens: NDArray[np.uint16]
    lengths: NDArray[np.int64]

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Rows of one length as int64 (len(rows), length)."""
        return torch.from_numpy(self.tokens[rows, : self.lengths[rows[0]]].astype(np.int64))


def tokenize(texts: Sequence[str]) -> TokenRows:
    """Tokenize with CLIP's byte-pair encoding."""
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    tokens = np.zeros((len(texts), CONTEXT_LENGTH), np.uint16)
    for start in range(0, len(texts), 4096):
        part = tokenizer(list(texts[start : start + 4096]))
        tokens[start : start + len(part)] = part.numpy()
    return TokenRows(tokens, np.count_nonzero(tokens, axis=1))


def new_tower(token_vectors: Tensor, to_targets: Tensor) -> TextTransformer:
    """A text tower that starts as the mean of its words' meanings.

    Each token starts as the teacher's vector of its spelling, in the 256 principal directions;
    the first attention layer averages, and the projection leads back to the teacher's space and
    from there to the targets'.

    Args:
        token_vectors: (49408, d) float32, unit rows; row i stands for token i.
        to_targets: (d, output_dim) float32.
    """
    tower = TextTransformer(
        context_length=CONTEXT_LENGTH,
        vocab_size=len(token_vectors),
        width=WIDTH,
        heads=HEADS,
        layers=LAYERS,
        mlp_ratio=MLP_RATIO,
        output_dim=to_targets.shape[1],
    )
    _, _, basis = torch.linalg.svd(token_vectors.T @ token_vectors)
    basis = basis[:WIDTH]  # (256, d), orthonormal rows
    with torch.no_grad():
        tower.token_embedding.weight.copy_(F.normalize(token_vectors @ basis.T, dim=-1))
        tower.text_projection.copy_(basis @ to_targets)
        first = tower.transformer.resblocks[0].attn
        first.in_proj_weight[2 * WIDTH :] += torch.eye(WIDTH)
        first.out_proj.weight += torch.eye(WIDTH)
    return tower


def forward(tower: TextTransformer, tokens: Tensor) -> Tensor:
    """The output of `tower` for texts of the same length that end with the end-of-text token.

    The last block computes only the last position, which is the one that is read.

    Args:
        tokens: (n, length) int64, not padded.

    Returns:
        (n, output_dim) float32, not normalised.
    """
    x: Tensor = tower.token_embedding(tokens) + tower.positional_embedding[: tokens.shape[1]]
    *blocks, last = (cast(ResidualAttentionBlock, block) for block in tower.transformer.resblocks)
    for block in blocks:
        x = x + _attend(block, x, x.shape[1])
        x = x + block.mlp(block.ln_2(x))
    y = x[:, -1:] + _attend(last, x, 1)
    y = y + last.mlp(last.ln_2(y))
    pooled: Tensor = tower.ln_final(y[:, 0])
    return pooled @ cast(Tensor, tower.text_projection)


def _attend(block: ResidualAttentionBlock, x: Tensor, asked: int) -> Tensor:
    """Causal self-attention for the last `asked` positions (all or one) of `x` (n, length, 256)."""
    n, length, width = x.shape
    in_weight, in_bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    normed = block.ln_1(x)
    q = F.linear(normed[:, length - asked :], in_weight[:width], in_bias[:width])
    k, v = F.linear(normed, in_weight[width:], in_bias[width:]).chunk(2, dim=-1)
    q, k, v = (part.view(n, -1, HEADS, width // HEADS).transpose(1, 2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=asked == length)
    out: Tensor = block.attn.out_proj(mixed.transpose(1, 2).reshape(n, asked, width))
    return out


def encode(tower: TextTransformer, rows: TokenRows, *, batch_size: int = 1024) -> Tensor:
    """Unit vectors (n, output_dim) float32 of all rows."""
    order = np.argsort(rows.lengths, kind="stable")
    edges = np.flatnonzero(np.diff(rows.lengths[order])) + 1
    out = torch.empty(len(order), tower.output_dim)
    with torch.inference_mode():
        for same in np.split(order, edges):
            for start in range(0, len(same), batch_size):
                part = same[start : start + batch_size]
                out[torch.from_numpy(part)] = F.normalize(forward(tower, rows.batch(part)), dim=-1)
    return out


def batches(
    rows: TokenRows, weights: NDArray[np.float64], batch_size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Endless batches of row numbers: a length is drawn by weight, then rows by theirs."""
    members = [np.flatnonzero(rows.lengths == length) for length in np.unique(rows.lengths)]
    sums = [np.cumsum(weights[member]) for member in members]
    shares = np.array([total[-1] for total in sums])
    shares /= shares.sum()
    while True:
        pick = int(rng.choice(len(members), p=shares))
        draws = rng.random(batch_size) * sums[pick][-1]
        found = np.searchsorted(sums[pick], draws, side="right")
        yield members[pick][np.minimum(found, len(members[pick]) - 1)]


def distil(
    tower: TextTransformer,
    rows: TokenRows,
    targets: Tensor,
    target_of: NDArray[np.int64],
    weights: NDArray[np.float64],
    *,
    steps: int,
    seconds: float,
    batch_size: int,
    learning_rate: float,
    seed: int,
    after_step: Callable[[int, float], None],
) -> None:
    """Train `tower` in place.

    Args:
        tower: the student.
        rows: the training texts.
        targets: (m, output_dim) float32, unit rows.
        target_of: (n,) the target of each text.
        weights: (n,) how often each text is drawn.
        steps, seconds: the end of training, whichever comes first.
        batch_size, learning_rate, seed: AdamW, a short warm-up, then a cosine to zero.
        after_step: called with the step's number (from 1) and its loss.
    """
    tower.train()
    tower.token_embedding.sparse = True  # a batch touches few of the 49,408 rows
    others = [p for name, p in tower.named_parameters() if not name.startswith("token_embedding")]
    matrices = [p for p in others if p.ndim > 1]
    vectors = [p for p in others if p.ndim < 2]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}],
            betas=(0.9, 0.98),
        ),
        torch.optim.SparseAdam([tower.token_embedding.weight], betas=(0.9, 0.98)),
    ]
    warm_up = min(200, steps // 10 + 1)
    drawn = batches(rows, weights, batch_size, np.random.default_rng(seed))
    began = time.monotonic()
    for step in range(1, steps + 1):
        progress = max(step / (steps + 1), (time.monotonic() - began) / seconds)
        if progress >= 1:
            break
        falling = 0.5 + 0.5 * math.cos(math.pi * progress)
        rate = learning_rate * min(step / warm_up, falling)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        picked = next(drawn)
        wanted = targets[torch.from_numpy(target_of[picked])]
        loss = 1 - F.cosine_similarity(forward(tower, rows.batch(picked)), wanted, dim=-1).mean()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        after_step(step, loss.item())
    tower.eval()
