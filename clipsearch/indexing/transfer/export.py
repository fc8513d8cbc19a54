"""Write the embeddings of a collection for other programs."""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.errors import ExchangeError
from clipsearch.indexing.embed import Progress
from clipsearch.indexing.transfer.layout import (
    EMBEDDINGS,
    MANIFEST,
    METADATA,
    Kind,
    pyarrow,
    row_of,
    write_embeddings,
    write_manifest,
    write_metadata,
)
from clipsearch.records import Filter
from clipsearch.storage.catalog import Store
from clipsearch.storage.vectors.vector_file import Ids

_ROWS_PER_SHARD = 100_000
"""100 MB at 512 dimensions."""


def export(store: Store, folder: Path, kind: Kind, only: Filter, progress: Progress) -> int:
    """Write the images that pass a filter to ``folder``; returns how many.

    The result is complete or absent. Raises ExchangeError if ``folder`` is not empty or cannot be
    written, or if parquet is requested and pyarrow is not installed. Nothing is written if no
    image passes.
    """
    _require_new(folder)
    folder = Path(os.path.abspath(folder))
    if kind == "parquet":
        pyarrow()
    ids = store.ids(only)
    if not len(ids):
        return 0
    unfinished = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        for part in (unfinished, unfinished / EMBEDDINGS, unfinished / METADATA):
            part.mkdir()
        rows = []
        starts = range(0, len(ids), _ROWS_PER_SHARD)
        for number, start in enumerate(starts):
            progress("exporting", start, len(ids))
            name = str(number).zfill(len(str(len(starts) - 1)))
            rows.append(
                _write_shard(
                    unfinished / EMBEDDINGS / f"img_emb_{name}.npy",
                    unfinished / METADATA / f"metadata_{name}.{kind}",
                    store,
                    ids[start : start + _ROWS_PER_SHARD],
                )
            )
        write_manifest(unfinished / MANIFEST, store.root, store.spec, rows)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except OSError as error:
        raise ExchangeError(
            f"cannot write {folder}: {error.strerror or error}",
            hint="Nothing was written. Name a new folder on a disk with enough space.",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sum(rows)


def _require_new(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise ExchangeError(
            f"cannot write {folder.name}: the folder {folder.parent} does not exist",
            hint="Create it first.",
        )
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ExchangeError(f"{folder} is not a folder", hint="Name a new one.")
    if folder.exists() and any(folder.iterdir()):
        raise ExchangeError(
            f"{folder} is not empty",
            hint="Name a new folder; existing files are never overwritten.",
        )


def _write_shard(embeddings: Path, metadata: Path, store: Store, ids: Ids) -> int:
    """Returns how many images were written: one may have been removed in the meantime."""
    root = os.fsencode(store.root)
    vectors = np.empty((len(ids), store.spec.dim), np.float16)
    rows: list[dict[str, Any]] = []
    for image in store.whole(ids):
        vectors[len(rows)] = image.vector
        rows.append(row_of(image, root))
    write_embeddings(embeddings, vectors[: len(rows)])
    write_metadata(metadata, rows)
    return len(rows)
