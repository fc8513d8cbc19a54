"""The gate: refuses text queries that have nothing to do with the domain.

Words come first: a query that names a class or a synonym is accepted, whatever else it says. Any
other query is judged by its embedding. Its nearness to the domain is its mean similarity to the
nearest class embeddings and in-domain examples; its score is that minus its nearness to the
out-of-domain examples. The similarity to the nearest class alone is not enough: measured on the
everyday domain with ``pocket``, it accepted 82% of the out-of-domain examples where this gate
accepts 22%, with 2% of the others refused in both cases.

The threshold comes from the domain's own in-domain examples, scored without their own entries:
it is the k-th smallest of their n scores with k = floor(0.02 (n + 1)), so that another query of
the same kind falls below it with a probability of at most 2% (the quantile of split conformal
prediction; Vovk, Gammerman and Shafer 2005). Refusing a sensible query is the worse error;
accepting one by mistake only leads to an answer of "no match".
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.domain.intervals import Estimate, proportion
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.words import Vocabulary
from clipsearch.domain.zero_shot import class_embeddings, encode_all
from clipsearch.errors import OutOfDomain
from clipsearch.records import TextEncoder, Vectors
from clipsearch.text import shortened

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MOST_REFUSED = 0.02
"""The share of in-domain queries that may be refused."""

_NEIGHBOURS = 10
"""How many similarities are averaged; between 5 and 40 the error rates hardly differ."""

_FOLDS = 10

_FEW = 10
"""With fewer in-domain examples than this, the gate stays open."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision on one query."""

    inside: bool
    named: tuple[str, ...]
    """Classes that the query names: if there are any, the embedding is not used."""
    score: float | None
    """Nearness to the domain minus nearness to what is outside; None if words decided."""
    nearest: tuple[str, ...]
    """The classes nearest to the query, nearest first; empty if words decided."""


@dataclass(frozen=True, slots=True)
class GateErrors:
    """The gate's error rates on the domain's own examples, cross-validated."""

    in_domain: int
    out_of_domain: int
    settled_by_words: int
    """In-domain examples that name a class; the embedding is tested on the others."""
    refused: Estimate | None
    """The share of all in-domain examples that were refused. None if there are none."""
    refused_without_words: Estimate | None
    """The same among those that name no class, which words never decide."""
    admitted: Estimate | None
    """The share of the out-of-domain examples that were accepted. None if there are none."""


class Gate:
    """A domain's gate for one model."""

    def __init__(self, domain: Domain, classes: Vectors, inside: Vectors, outside: Vectors):
        """Build from the embeddings of a domain's classes and examples.

        classes: ``(classes, dim)``. inside, outside: the embeddings of ``domain.in_domain`` and
        ``domain.out_of_domain``; either may have no rows.
        """
        self._domain = domain
        self._points = _Points(classes, inside, outside)
        self._vocabulary = Vocabulary(domain)

    @classmethod
    def build(cls, domain: Domain, encoder: TextEncoder, classes: Vectors | None = None) -> "Gate":
        """Embed what the gate needs; ``classes`` are the class embeddings, if available."""
        if classes is None:
            classes = class_embeddings(domain, encoder)
        both = (*domain.in_domain, *domain.out_of_domain)
        empty = np.empty((0, classes.shape[1]), np.float32)
        examples = encode_all(encoder, both) if both else empty
        cut = len(domain.in_domain)
        return cls(domain, classes, examples[:cut], examples[cut:])

    @property
    def classes(self) -> Vectors:
        """The embeddings of the domain's classes, ``(classes, dim)``, in their order."""
        return self._points.classes

    def named(self, query: str) -> tuple[str, ...]:
        """The classes that a query names; if any, it is accepted without an embedding."""
        return tuple(
            self._domain.classes[index].name for index in self._vocabulary.classes_named(query)
        )

    def judge(self, query: str, vector: Vectors) -> Verdict:
        """Whether a query is in the domain; ``vector`` ``(dim,)`` is its embedding."""
        named = self.named(query)
        if named:
            return Verdict(True, named, None, ())
        score = float(self._points.scores(vector[np.newaxis])[0])
        order = np.argsort(-(self._points.classes @ vector), kind="stable")[:3]
        nearest = tuple(self._domain.classes[index].name for index in order)
        return Verdict(score >= self.threshold, (), score, nearest)

    def check(self, query: str, vector: Vectors) -> Verdict:
        """``judge``, but a refusal raises OutOfDomain, which names the nearest classes."""
        verdict = self.judge(query, vector)
        if not verdict.inside:
            said = shortened(" ".join(query.split()))
            raise OutOfDomain(
                f"'{said}' seems to have nothing to do with the domain "
                f"{self._domain.name}; its nearest classes are {', '.join(verdict.nearest)}",
                hint="Rephrase it, or search anyway with --allow-out-of-domain.",
            )
        return verdict

    @cached_property
    def threshold(self) -> float:
        """The score below which a query is refused; minus infinity if none is."""
        settled = self._settled(self._domain.in_domain)
        return _threshold(self._points.scores_of_inside()[~settled])

    def errors(self) -> GateErrors:
        """Error rates in ten-fold cross-validation.

        Each tenth of the examples is judged with neighbors and a threshold from the other nine
        tenths.
        """
        settled = self._settled(self._domain.in_domain)
        points = self._points
        fold_in = np.arange(len(points.inside)) % _FOLDS
        fold_out = np.arange(len(points.outside)) % _FOLDS
        refused = np.zeros(len(fold_in), bool)
        admitted = self._settled(self._domain.out_of_domain)
        for fold in range(_FOLDS):
            now_in, now_out = fold_in == fold, fold_out == fold
            rest = _Points(points.classes, points.inside[~now_in], points.outside[~now_out])
            threshold = _threshold(rest.scores_of_inside()[~settled[~now_in]])
            refused[now_in] = rest.scores(points.inside[now_in]) < threshold
            admitted[now_out] |= rest.scores(points.outside[now_out]) >= threshold
        refused &= ~settled
        unsettled = int((~settled).sum())
        return GateErrors(
            in_domain=len(refused),
            out_of_domain=len(admitted),
            settled_by_words=len(refused) - unsettled,
            refused=_share(refused, len(refused)),
            refused_without_words=_share(refused, unsettled),
            admitted=_share(admitted, len(admitted)),
        )

    def _settled(self, queries: Sequence[str]) -> Bools:
        return np.array([bool(self._vocabulary.classes_named(query)) for query in queries], bool)

    # -- serialization ---------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Serialize the embeddings, as fp16; the inverse of ``from_bytes``."""
        file = io.BytesIO()
        arrays = {name: part.astype(np.float16) for name, part in self._points._asdict().items()}
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, domain: Domain, data: bytes) -> "Gate":
        """Rebuild a gate from ``to_bytes`` for the same domain. Raises ValueError for any other."""
        counts = (len(domain.classes), len(domain.in_domain), len(domain.out_of_domain))
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            parts = [arrays[name].astype(np.float32) for name in _Points._fields]
        dim = parts[0].shape[-1]
        if [part.shape for part in parts] != [(count, dim) for count in counts]:
            raise ValueError(f"the embeddings of {', '.join(map(str, counts))} texts are missing")
        return cls(domain, *parts)


class _Points(NamedTuple):
    """The points that queries are compared with, each ``(n, dim)``."""

    classes: Vectors
    inside: Vectors
    outside: Vectors

    def scores(self, queries: Vectors) -> Floats:
        """Nearness to the domain minus nearness to what is outside: ``(n, dim)`` to ``(n,)``."""
        return self._difference(queries, queries @ self.inside.T)

    def scores_of_inside(self) -> Floats:
        """The scores of the in-domain examples, each without its own entry."""
        similarities = self.inside @ self.inside.T
        np.fill_diagonal(similarities, -np.inf)
        return self._difference(self.inside, similarities)

    def _difference(self, queries: Vectors, to_inside: Vectors) -> Floats:
        near = _nearness(np.concatenate([queries @ self.classes.T, to_inside], axis=1))
        return near - _nearness(queries @ self.outside.T) if len(self.outside) else near


def _nearness(similarities: npt.NDArray[np.floating]) -> Floats:
    """The mean of each row's greatest few of ``(n, m)``; minus infinity if there are none."""
    k = min(_NEIGHBOURS, similarities.shape[1])
    top = -np.partition(-similarities, k - 1, axis=1)[:, :k].astype(np.float64)
    there = np.isfinite(top)
    nearness: Floats = np.where(there, top, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return nearness


def _threshold(scores: Floats) -> float:
    """The score below which at most MOST_REFUSED of similar queries are expected.

    With fewer than 49 scores, none of their quantiles is that extreme. Then it is three standard
    deviations below their mean, or the smallest score if that is lower.
    """
    k = int(MOST_REFUSED * (len(scores) + 1))
    if k >= 1:
        return float(np.sort(scores)[k - 1])
    if len(scores) < _FEW:
        return float("-inf")
    return float(min(scores.min(), scores.mean() - 3 * scores.std(ddof=1)))


def _share(errors: Bools, among: int) -> Estimate | None:
    return proportion(int(errors.sum()), among) if among else None
