"""Measure how well the texts of a model in a folder find labeled photographs.

    python -m tests.pocket_build.photographs MODEL FOLDER LABELS.csv [--cut 0.65]

LABELS.csv has the columns path (within FOLDER) and label; a photograph may have several labels.
The query for each label is "a LABEL".
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


class Found(NamedTuple):
    """The quality of one ranking."""

    average_precision: float
    best_f1: float
    cut_f1: float


def ranked(scores: NDArray[np.float32], right: NDArray[np.bool_], cut: float) -> Found:
    """Judge one query.

    Args:
        scores: (n,) of all photographs.
        right: (n,) whether each has the label; at least one does.
        cut: `cut_f1` is the F1 of those that score at least mean + cut * (best - mean).
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    places = np.arange(1, len(scores) + 1)
    shown = scores >= scores.mean() + cut * (scores.max() - scores.mean())
    return Found(
        float((hits / places)[right[order]].mean()),
        float((2 * hits / (places + right.sum())).max()),
        float(2 * (shown & right).sum() / (shown.sum() + right.sum())),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the means over all labels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--cut", type=float, default=0.65)
    arguments = parser.parse_args(argv)
    truth: dict[str, set[str]] = defaultdict(set)
    with arguments.labels.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            truth[row["label"]].add(row["path"])
    paths = sorted(path.name for path in arguments.folder.iterdir() if path.is_file())
    name = f"local-dir:{arguments.model}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    pictures: list[Tensor] = []
    with torch.inference_mode():
        texts = F.normalize(model.encode_text(tokenizer([f"a {label}" for label in truth])), dim=-1)
        for path in paths:
            with Image.open(arguments.folder / path) as picture:
                pixels = preprocess(picture.convert("RGB")).unsqueeze(0)
            pictures.append(F.normalize(model.encode_image(pixels), dim=-1)[0])
    scores = (texts @ torch.stack(pictures).T).numpy()
    rights = [np.array([path in truth[label] for path in paths]) for label in truth]
    rows = [ranked(*pair, arguments.cut) for pair in zip(scores, rights, strict=True)]
    means = dict(zip(Found._fields, np.mean(rows, axis=0).round(3).tolist(), strict=True))
    print(f"{len(rows)} labels, {len(paths)} photographs: {means}")


if __name__ == "__main__":
    main()
