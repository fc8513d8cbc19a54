"""Are these embeddings those of these images?  A sample is made again, and compared."""

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
"""How far rounding to fp16 takes a unit vector's length from 1."""


class Row(NamedTuple):
    """An embedding and the file that it is of."""

    file: ImageFile
    shard: int
    row: int
    content_hash: bytes | None
    """What the image was when it was embedded, where the export tells."""

    def is_of(self, seen: SeenImage) -> bool:
        """Whether the embedding is of what there is to be seen now.

        Where the export does not tell, another program may have made it: an image that not all
        programs show alike may then have another embedding.
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
    """Make a sample of the embeddings again from the images; how many were compared.

    root: the collection's, absolute. rows: those to choose from.

    The same model agrees with itself up to rounding, the device and the reduced decoding of large
    JPEGs: cosines of 0.99 and more. Another model's embeddings, or those of other images, are
    far below. Raises ExchangeError if one does not agree, or if none can be compared.
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
            f"none of the images that {exported.folder} is about can be compared with it",
            hint="Nothing was imported. Embed them with: clipsearch index FOLDER",
        )
    return compared


def _comparable(rows: Sequence[Row], root: bytes, ahead: int) -> Generator[Row]:
    """Those rows whose files are still what was embedded, as soon as each has been looked at."""
    of = {row.file: row for row in rows}
    with DecodePool(root, list(of), None, max_pixels=None, ahead=ahead, workers=1) as pool:
        for file, outcome in pool:
            if isinstance(outcome, SeenImage) and of[file].is_of(outcome):
                yield of[file]


def _require_same(exported: Export, row: Row, made: EmbeddedImage, spec: ModelSpec) -> None:
    """Raise ExchangeError if a row is not the embedding that was made of its image now."""
    stored = unit(array(exported.shards[row.shard].embeddings)[row.row])
    similarity = float(made.vector @ stored)
    if similarity < SAME:
        raise ExchangeError(
            f"the embeddings in {exported.folder} are of another model than {spec.label}, or "
            f"of other images: that of {os.fsdecode(row.file.path)} has a cosine of "
            f"{similarity:.3f} to one made again",
            hint="Nothing was imported. Name the model that made them with --model and "
            "--pretrained.",
        )


def unit(vector: npt.NDArray[Any]) -> Vectors:
    """A row as a unit vector, ``(dim,)``: as it is where rounding alone makes it longer."""
    exact = np.asarray(vector, np.float32)
    return exact if abs(float(np.linalg.norm(exact)) - 1) < _UNIT else l2_normalise(exact)
