"""The layout in which clip-retrieval writes and reads embeddings.

::

    img_emb/img_emb_0.npy          float16, (rows, dim)
    metadata/metadata_0.parquet    a row an embedding, in the same order; image_path and more
    clipsearch.json                which model made them; clip-retrieval writes none

Here, and nowhere else, things are joined by row position, since the layout is. So an import is
believed only after a sample of its embeddings was made again from the pictures themselves.

A path that is not UTF-8 is in ``image_path`` with replacement characters, and as it is in
``path_bytes`` (base64 in JSON lines), which is empty for all others. ``content_hash`` is the
file's BLAKE2b-160 in hexadecimal: one that has changed since is not taken for what it was.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ExchangeError
from clipsearch.records import ModelSpec

Kind = Literal["parquet", "jsonl"]

EMBEDDINGS, METADATA, MANIFEST = "img_emb", "metadata", "clipsearch.json"

_VERSION = 1
"""Of what the manifest tells; keys are only ever added to it."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of embeddings and the rows that say whose they are."""

    embeddings: Path
    metadata: Path
    rows: int


@dataclass(frozen=True, slots=True)
class Export:
    """An export that holds together, as far as can be told without reading all of it."""

    folder: Path
    shards: tuple[Shard, ...]
    dim: int
    told: dict[str, Any]
    """What ``clipsearch.json`` says, if there is one: clip-retrieval writes none."""

    @property
    def rows(self) -> int:
        """How many embeddings there are."""
        return sum(shard.rows for shard in self.shards)


def read(folder: Path) -> Export:
    """Look through an export. Raises ExchangeError for what does not hold together."""
    if not folder.is_dir():
        raise _bad(f"{folder} is no folder")
    told = _told(folder)
    found = _numbered(folder / EMBEDDINGS, r"img_emb_(\d+)\.npy")
    if not found:
        raise _bad(f"there are no embeddings in {folder}: no {EMBEDDINGS}/img_emb_0.npy")
    described = _numbered(folder / METADATA, r"metadata_(\d+)\.(?:parquet|jsonl)")
    for number in sorted(found.keys() ^ described.keys()):
        path = found.get(number) or described[number]
        raise _bad(f"{path} has no counterpart in {METADATA if number in found else EMBEDDINGS}")
    shards = []
    dims = set()
    for number in sorted(found):
        count, dim = array(found[number]).shape
        named = sum(1 for _ in rows_of(described[number]))
        if named != count:
            raise _bad(
                f"{found[number]} has {count} rows, and {described[number]} has {named}; "
                "which embedding is whose cannot be told"
            )
        shards.append(Shard(found[number], described[number], count))
        dims.add(dim)
        _require_directions(found[number])
    if len(dims) > 1:
        raise _bad(f"the embeddings in {folder} have several lengths: {sorted(dims)}")
    if told and (rows := [shard.rows for shard in shards]) != told.get("rows"):
        raise _bad(
            f"{folder / MANIFEST} tells of {told.get('rows')} rows in the shards, not {rows}"
        )
    return Export(folder, tuple(shards), dims.pop(), told)


def write_manifest(path: Path, root: Path, spec: ModelSpec, rows: Sequence[int]) -> None:
    """Tell which model made the embeddings. rows: of each shard."""
    told = {
        "version": _VERSION,
        "model": spec.label,
        "name": spec.name,
        "pretrained": spec.pretrained,
        "fingerprint": spec.fingerprint,
        "dim": spec.dim,
        "rows": rows,
        "root": os.fsdecode(root),  # what is not UTF-8 in it becomes an escape
    }
    _write(path, json.dumps(told, indent=2) + "\n")


def write_embeddings(path: Path, vectors: npt.NDArray[np.float16]) -> None:
    """Write ``(rows, dim)``, to the disk itself."""
    with path.open("wb") as file:
        np.save(file, vectors)
        _to_disk(file)


def write_metadata(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a row an embedding, as Parquet or as JSON lines: the suffix says which."""
    if path.suffix == ".parquet":
        _write_parquet(path, rows)
        return
    lines = []
    for row in rows:
        odd = row["path_bytes"]
        coded = None if odd is None else base64.b64encode(odd).decode("ascii")
        lines.append(json.dumps({**row, "path_bytes": coded}, ensure_ascii=False) + "\n")
    _write(path, "".join(lines))


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    pa, pq = pyarrow()
    columns = {
        "image_path": pa.string(),
        "path_bytes": pa.binary(),
        **dict.fromkeys(("width", "height"), pa.int32()),
        **dict.fromkeys(("taken_at", "camera"), pa.string()),
        **dict.fromkeys(("latitude", "longitude"), pa.float64()),
        "content_hash": pa.string(),
    }
    with path.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items()))), file)
        _to_disk(file)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        _to_disk(file)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises ExchangeError if it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ExchangeError(
            "parquet files need pyarrow, which is not installed",
            hint="Install it with: pip install 'clipsearch[parquet]'. "
            "export --npy does without: it writes the metadata as JSON lines.",
        ) from error
    return pa, pq


def has_pyarrow() -> bool:
    """Whether parquet files can be written and read here."""
    try:
        pyarrow()
    except ExchangeError:
        return False
    return True


def array(path: Path) -> npt.NDArray[Any]:
    """A file of embeddings, mapped: ``(rows, dim)``, of some float type."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # numpy raises whatever its parser of headers stumbles over, tokenize.TokenError say.
        raise _bad(f"{path} is no file of embeddings ({error})") from error
    if not isinstance(mapped, np.ndarray) or mapped.ndim != 2 or mapped.dtype.kind != "f":
        raise _bad(f"{path} is no table of floating-point numbers")
    return mapped


def _require_directions(path: Path) -> None:
    vectors = array(path)
    for start in range(0, len(vectors), 10_000):
        with np.errstate(all="ignore"):
            rows = np.asarray(vectors[start : start + 10_000], np.float32)
            lengths = np.linalg.norm(rows, axis=1)
        if len(bad := np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))):
            raise _bad(f"row {start + bad[0]} of {path} is no embedding (zero or not a number)")


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (name := re.fullmatch(pattern, path.name)) and path.is_file():  # a FIFO never ends
            number = int(name[1])
            if number in found:
                raise _bad(f"{found[number].name} and {path.name} in {folder} have one number")
            found[number] = path
    return found


def _told(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_bytes())
        texts = all(isinstance(told[key], str) for key in ("model", "name", "fingerprint", "root"))
        if not (texts and isinstance(told.get("pretrained"), str | None)):
            raise TypeError("it is not what export writes")
        if told["version"] != _VERSION:
            raise ValueError("it was written by a newer clipsearch")
        os.fsencode(told["root"])
    except KeyError as error:
        raise _bad(f"{path} does not tell the {error.args[0]}") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _bad(f"cannot read {path}: {error}") from error
    return dict(told)


def rows_of(metadata: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """Path and content hash (if it is told) of each row of a file of metadata."""
    rows = _parquet_rows(metadata) if metadata.suffix == ".parquet" else _json_rows(metadata)
    for number, row in enumerate(rows):
        try:
            path, told = row.get("path_bytes"), row.get("content_hash")
            if path is None:
                path = row["image_path"].encode()
            elif isinstance(path, str):
                path = base64.b64decode(path, validate=True)
        except (KeyError, AttributeError, ValueError) as error:
            raise _bad(f"row {number} of {metadata} has no image_path") from error
        try:
            content_hash = None if told is None else bytes.fromhex(told)
        except (TypeError, ValueError) as error:
            raise _bad(f"row {number} of {metadata} has a content_hash that is none") from error
        if not isinstance(path, bytes):
            raise _bad(f"row {number} of {metadata} has a path_bytes that is none")
        yield path, content_hash


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    pa, pq = pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            columns = {"image_path", "path_bytes", "content_hash"} & set(file.schema_arrow.names)
            for batch in file.iter_batches(columns=sorted(columns)):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _bad(f"cannot read {path}: {error}") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(f"cannot read {path}: {error}") from error


def _bad(message: str) -> ExchangeError:
    return ExchangeError(
        message,
        hint="import takes what export or clip-retrieval inference wrote: img_emb/img_emb_N.npy "
        "and metadata/metadata_N.parquet.",
    )
