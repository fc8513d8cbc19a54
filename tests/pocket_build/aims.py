"""The text tower's targets: the teacher's vectors, drawn to the classes that a text is about.

An image's vector is a mixture of class vectors e, so a text finds the images of its classes if
its vector v has a high e'v for these classes and a low one for all others. The least-squares
solution for classes C, with a ridge against noise, is (G + RIDGE)^-1 mean(e in C), G = mean(e e')
over all 1,000 classes; it finds far more than the plain mean. The teacher's own vector is whitened
half as much, (G + RIDGE)^-1/2, which evens out the space that each kind of thing takes up.

A text that no class covers should score low everywhere instead of finding a wrong class. So part
of its vector moves to dimensions that are zero in every image, where the teacher's principal
directions keep such texts apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .coverage import Coverage, Meaning, Noun

Vector = NDArray[np.float32]

RIDGE = 0.002
DRAWN = 0.85  # how far a single noun is drawn to its classes
DRAWN_PHRASE = 0.75  # and a text of several words
SHARPNESS = 20.0  # of the choice between a word's meanings
LEAST_AGREEMENT = 0.1  # with the teacher's vector, minus the meaning's cost
VISIBLE_THING, VISIBLE_OTHER = 0.7, 0.4  # length of the visible part if there is no class


class Aims:
    """Makes targets from the teacher's vectors.

    Args:
        coverage: which classes a text is about.
        class_vectors: (1000, d) float32, unit rows, which the image tower mixes.
        spare: dimensions of the embedding beyond d.
    """

    def __init__(self, coverage: Coverage, class_vectors: Tensor, spare: int) -> None:
        self.coverage = coverage
        self.class_vectors = class_vectors
        values, directions = torch.linalg.eigh(class_vectors.T @ class_vectors / len(class_vectors))
        self._inverse = (directions / (values + RIDGE)) @ directions.T
        self._half = (directions / (values + RIDGE).sqrt()) @ directions.T
        self._spare = directions[:, -spare:]
        self._drawn: dict[tuple[int, ...], tuple[Vector, Vector]] = {}

    def start(self) -> Tensor:
        """(d, d + spare): a linear map from the teacher's space to approximate targets."""
        even = self._half * (len(self._half) ** 0.5 / self._half.norm())
        return torch.cat([even, 0.3 * self._spare], dim=1)

    def targets(
        self, texts: Sequence[str], vectors: Tensor, meant: Mapping[int, Sequence[Meaning]]
    ) -> Tensor:
        """The targets (n, d + spare) float32, unit rows.

        Args:
            texts: the texts that the teacher embedded.
            vectors: (n, d) float32, unit rows: its embeddings minus the mean.
            meant: the meanings of texts that are known without reading them (definitions).
        """
        visible = F.normalize(vectors @ self._half, dim=-1)
        aims, answers = visible.numpy(), vectors.numpy()  # small sums are faster in numpy
        lengths = torch.ones(len(texts), 1)
        for number, text in enumerate(texts):
            if number in meant:
                nouns = [(Noun(text, 1.0), meant[number])]
            else:
                found = self.coverage.nouns(text)
                nouns = [(noun, self.coverage.meanings(noun.phrase)) for noun in found]
            total, share, weight = 0.0 * aims[number], 0.0, 0.0
            for noun, meanings in nouns:
                drawn, part = self._draw(meanings, answers[number])
                if part:
                    total += noun.weight * part * drawn
                    share += noun.weight * part
                    weight += noun.weight
            if weight:
                far = (DRAWN if len(nouns) == 1 else DRAWN_PHRASE) * share / weight
                aims[number] = (1 - far) * aims[number] + far * _unit(total)
            else:
                things = any(self.coverage.concrete(noun.phrase) for noun, _ in nouns)
                lengths[number] = VISIBLE_THING if things else VISIBLE_OTHER
        hidden = F.normalize(vectors @ self._spare, dim=-1)
        return torch.cat(
            [F.normalize(visible, dim=-1) * lengths, hidden * (1 - lengths**2).sqrt()], dim=1
        )

    def _draw(self, meanings: Sequence[Meaning], vector: Vector) -> tuple[Vector, float]:
        """The mixture of all meanings that agree with the teacher, and the share that it covers."""
        agreeing = []
        for meaning in meanings:
            mean, drawn = self._towards(meaning.classes)
            agreement = float(mean @ vector) - meaning.cost
            if agreement > LEAST_AGREEMENT or len(meanings) == 1:
                agreeing.append((agreement, drawn, meaning.share))
        if not agreeing:
            return vector, 0.0
        best = max(agreement for agreement, _, _ in agreeing)
        odds = [math.exp(SHARPNESS * (agreement - best)) for agreement, _, _ in agreeing]
        mixed = sum(
            (odd * drawn for odd, (_, drawn, _) in zip(odds, agreeing, strict=True)), 0.0 * vector
        )
        share = sum(odd * share for odd, (_, _, share) in zip(odds, agreeing, strict=True))
        return _unit(mixed), share / sum(odds)

    def _towards(self, classes: tuple[int, ...]) -> tuple[Vector, Vector]:
        """The mean of class vectors and its least-squares direction, unit vectors (d,)."""
        if classes not in self._drawn:
            mean = self.class_vectors[list(classes)].mean(0)
            self._drawn[classes] = _unit(mean.numpy()), _unit((mean @ self._inverse).numpy())
        return self._drawn[classes]


def _unit(vector: Vector) -> Vector:
    return vector / np.float32(math.sqrt(float(vector @ vector)))
