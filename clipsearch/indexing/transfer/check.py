"""Check that embeddings belong to their images: recompute a sample and compare."""

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ExchangeError
from clipsearch.images.pool import DecodePool
from clipsearch.indexing.embed import LoadEncoder, Progress, embed_files
from clipsearch.indexing.transfer.layout import Export, array
from clipsearch.indexing.verify import SAME
from clipsearch.records import EmbeddedImage, ImageFile, ModelSpec, SeenImage, Vectors
from clipsearch.vectors import l2_normalise

_UNIT = 0.001
"""How far rounding to fp16 can move a unit vector's length from 1."""


class Row(NamedTuple):
    """An embedding and its file."""

    file: ImageFile
    shard: int
    row: int
    content_hash: bytes | None
    """The state of the image when it was embedded, if the export records it."""

    def is_of(self, seen: SeenImage) -> bool:
        """Whether the embedding belongs to the image as it is now.

        If the export does not record this, another program may have made the embedding. That
        program may decode some images differently, and their embeddings then differ.
        """
        return seen.alike if self.content_hash is None else self.content_hash == seen.content_hash


def check(
    exported: Export,
    root: bytes,
    rows: Sequence[Row],
    spec: ModelSpec,
    load_encoder: LoadEncoder,
    sample: int,
    progress: Progress,
) -> int:
    """Recompute a sample of the embeddings from the images; returns how many were compared.

    root: the collection's, absolute. rows: the candidates.

    The same model agrees with itself up to rounding, the device and the reduced decoding of large
    JPEGs, with cosines of at least 0.99. Embeddings of another model or of other images score
    far lower. Raises ExchangeError if one disagrees, or if none can be compared.
    """
    load_encoder = cache(load_encoder)
    order = np.random.default_rng().permutation(len(rows))
    shuffled = [rows[n] for n in order]
    compared = 0
    with closing(_comparable(shuffled, root, sample)) as candidates:
        while some := {row.file: row for row in islice(candidates, sample - compared)}:
            for batch in embed_files(
                root, list(some), spec.preprocessing, load_encoder, progress=progress
            ):
                for file, outcome in batch:
                    if isinstance(outcome, EmbeddedImage):
                        _require_same(exported, some[file], outcome, spec)
                        compared += 1
    if not compared:
        raise ExchangeError(
            f"none of the images that {exported.folder} describes can be compared with it",
            hint="Nothing was imported. Embed them with: clipsearch index FOLDER",
        )
    return compared


def _comparable(rows: Sequence[Row], root: bytes, ahead: int) -> Generator[Row]:
    """Yield the rows whose files are still as they were when embedded, as each is checked."""
    of = {row.file: row for row in rows}
    with DecodePool(root, list(of), None, max_pixels=None, ahead=ahead, workers=1) as pool:
        for file, outcome in pool:
            if isinstance(outcome, SeenImage) and of[file].is_of(outcome):
                yield of[file]


def _require_same(exported: Export, row: Row, made: EmbeddedImage, spec: ModelSpec) -> None:
    """Raise ExchangeError if a row differs from the embedding just made of its image."""
    stored = unit(array(exported.shards[row.shard].embeddings)[row.row])
    similarity = float(made.vector @ stored)
    if similarity < SAME:
        raise ExchangeError(
            f"the embeddings in {exported.folder} are not from {spec.label}, or belong to "
            f"other images: the one for {os.fsdecode(row.file.path)} has a cosine of "
            f"{similarity:.3f} to a recomputed one",
            hint="Nothing was imported. Name the model that made them with --model and "
            "--pretrained.",
        )


def unit(vector: npt.NDArray[Any]) -> Vectors:
    """A row as a unit vector, ``(dim,)``; unchanged if only rounding makes it longer."""
    exact = np.asarray(vector, np.float32)
    return exact if abs(float(np.linalg.norm(exact)) - 1) < _UNIT else l2_normalise(exact)
