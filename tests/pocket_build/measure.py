"""Measures of the text tower that need no photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor
from torch.nn import functional as F

from .text_tower import encode, tokenize

# name -> (texts, their target unit vectors)
Questions = Mapping[str, tuple[Sequence[str], Tensor]]


def measure(
    tower: TextTransformer, questions: Questions, class_vectors: Tensor
) -> dict[str, float]:
    """Compare the student with its targets.

    Args:
        tower: the student.
        questions: texts and their targets (n, d), unit rows. Those whose name starts with
            "class" have one text per class, in order, and are also ranked.
        class_vectors: (1000, d) unit rows, which the image tower mixes, padded like the targets.

    Returns:
        "NAME cos": the mean cosine to the target; "NAME R@k": the share of texts among whose k
        nearest class vectors is their own class.
    """
    found: dict[str, float] = {}
    for name, (texts, wanted) in questions.items():
        got = encode(tower, tokenize(texts))
        found[f"{name} cos"] = F.cosine_similarity(got, wanted, dim=-1).mean().item()
        if name.startswith("class"):
            for k in (1, 5, 10):
                found[f"{name} R@{k}"] = recall(got @ class_vectors.T, k)
    return {name: round(value, 4) for name, value in found.items()}


def recall(scores: Tensor, k: int) -> float:
    """The share of rows i of `scores` (n, n) whose column i is among the k highest.

    Equal scores count as found: some classes share one name.
    """
    own = scores.diagonal().unsqueeze(1)
    higher = (scores > own + 1e-6).sum(dim=1)
    return (higher < k).to(torch.float32).mean().item()
