"""The layout in which clip-retrieval writes and reads embeddings.

::

    img_emb/img_emb_0.npy          float16, (rows, dim)
    metadata/metadata_0.parquet    one row per embedding, same order; image_path and more
    clipsearch.json                which model made them; clip-retrieval does not write it

Only here are things joined by row position, because the layout requires it. So an import is
trusted only after a sample of its embeddings has been recomputed from the images.

A path that is not UTF-8 has replacement characters in ``image_path``, and its exact form in
``path_bytes`` (base64 in JSON lines), which is empty for all others. ``content_hash`` is the
file's BLAKE2b-160 in hexadecimal: a file that has changed since is not accepted as the original.

For an image inside an archive, the archive's path precedes its own (``00000.tar/000000012.jpg``),
and ``archive``, ``byte_offset`` and ``bytes`` say where it is. ``caption`` and ``url`` are
clip-retrieval's names for what img2dataset wrote next to it.
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
from clipsearch.indexing.transfer import finished
from clipsearch.paths import absolute
from clipsearch.records import Archived, EmbeddedImage, ModelSpec

Kind = Literal["parquet", "jsonl"]

EMBEDDINGS, METADATA, MANIFEST = "img_emb", "metadata", "clipsearch.json"

_COLUMNS = {
    "image_path": "string",
    "path_bytes": "binary",
    **dict.fromkeys(("width", "height"), "int32"),
    **dict.fromkeys(("taken_at", "camera"), "string"),
    **dict.fromkeys(("latitude", "longitude"), "float64"),
    **dict.fromkeys(("content_hash", "caption", "url", "archive"), "string"),
    **dict.fromkeys(("byte_offset", "bytes", "mtime_ns"), "int64"),
}
"""Metadata columns and their Arrow types; columns of other programs are not read."""

_ROWS_AT_ONCE = 5_000
"""How many rows of a parquet file are in memory at once, including captions."""

_VERSION = 1
"""The version of the manifest; keys are only ever added."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of embeddings and the rows that name their images."""

    embeddings: Path
    metadata: Path
    rows: int

    @property
    def files(self) -> tuple[Path, Path]:
        """Both of its files."""
        return self.embeddings, self.metadata


@dataclass(frozen=True, slots=True)
class Export:
    """An export that is consistent, as far as can be checked without reading all of it."""

    folder: Path
    shards: tuple[Shard, ...]
    dim: int
    told: dict[str, Any]
    """The content of ``clipsearch.json``, if present: clip-retrieval does not write it."""
    damaged: tuple[str, ...] = ()
    """Archives that may contain more images, and why."""

    @property
    def rows(self) -> int:
        """The number of embeddings."""
        return sum(shard.rows for shard in self.shards)


def read(folder: Path) -> Export:
    """Examine an export. Raises ExchangeError if it is inconsistent."""
    if not folder.is_dir():
        raise _bad(f"{folder} is not a folder")
    told = manifest(folder)
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
                "so embeddings cannot be matched to rows"
            )
        shards.append(Shard(found[number], described[number], count))
        dims.add(dim)
        _require_directions(found[number])
    if len(dims) > 1:
        raise _bad(f"the embeddings in {folder} have different lengths: {sorted(dims)}")
    damaged: tuple[str, ...] = ()
    if told and "rows" not in told:
        damaged = tuple(_damage(folder, shards))
    elif told and (rows := [shard.rows for shard in shards]) != told["rows"]:
        raise _bad(f"{folder / MANIFEST} lists {told['rows']} rows in the shards, not {rows}")
    return Export(folder, tuple(shards), dims.pop(), told, damaged)


def _damage(folder: Path, shards: Sequence[Shard]) -> Iterator[str]:
    """Damaged archives in an output of ``embed``; raises if a shard is not finished."""
    files = {f"{part.parent.name}/{part.name}" for shard in shards for part in shard.files}
    for number, marker in finished.markers(folder):
        if finished.marker_of(folder, number) is None or not files.issuperset(marker.files):
            break
        files -= marker.files.keys()
        if marker.damage:
            yield f"{marker.source}: {marker.damage}"
    else:
        if not files:
            return
        number = min(files)
    raise ExchangeError(
        f"shard {number} in {folder} is not finished, or was changed",
        hint="Run the same clipsearch embed command again; it makes what is missing.",
    )


def write_manifest(path: Path, root: Path, spec: ModelSpec, rows: Sequence[int] | None) -> None:
    """Record which model made the embeddings. rows: per shard; None: the markers have them."""
    told = {
        "version": _VERSION,
        "model": spec.label,
        "name": spec.name,
        "pretrained": spec.pretrained,
        "fingerprint": spec.fingerprint,
        "dim": spec.dim,
        **({} if rows is None else {"rows": rows}),
        "root": os.fsdecode(root),  # bytes that are not UTF-8 become escapes
    }
    write_text(path, json.dumps(told, indent=2) + "\n")


def row_of(image: EmbeddedImage, root: bytes) -> dict[str, Any]:
    """The row of an image with a path relative to ``root``, for ``write_metadata``."""
    archived = image.archived
    path = image.file.path if archived else absolute(root, image.file.path)
    archive = archived and archived.archive
    text = path.decode("utf-8", "replace")
    return {
        "image_path": text,
        "path_bytes": None if text.encode() == path else path,
        "width": image.width,
        "height": image.height,
        "taken_at": image.taken_at,
        "camera": image.camera,
        "latitude": image.latitude,
        "longitude": image.longitude,
        "content_hash": image.content_hash.hex() or None,
        "caption": archived and archived.caption,
        "url": archived and archived.url,
        "archive": archive and archive.decode("utf-8", "replace"),
        "byte_offset": archived.offset if archived and archive else None,
        "bytes": image.file.size,
        "mtime_ns": image.file.mtime_ns,
    }


def write_embeddings(path: Path, vectors: npt.NDArray[np.float16]) -> None:
    """Write ``(rows, dim)`` and sync to disk."""
    with path.open("wb") as file:
        np.save(file, vectors)
        _to_disk(file)


def write_metadata(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one row per embedding, as Parquet or JSON lines depending on the suffix."""
    if path.suffix == ".parquet":
        _write_parquet(path, rows)
        return
    lines = []
    for row in rows:
        odd = row["path_bytes"]
        coded = None if odd is None else base64.b64encode(odd).decode("ascii")
        lines.append(json.dumps({**row, "path_bytes": coded}, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    pa, pq = pyarrow()
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in _COLUMNS.items()])
    with path.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
        _to_disk(file)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 and sync to disk."""
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
            "export --npy does not need it: it writes the metadata as JSON lines.",
        ) from error
    return pa, pq


def has_pyarrow() -> bool:
    """Whether parquet files can be read and written on this machine."""
    try:
        pyarrow()
    except ExchangeError:
        return False
    return True


def array(path: Path) -> npt.NDArray[Any]:
    """A memory-mapped file of embeddings: ``(rows, dim)``, of any float type."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # numpy raises whatever its header parser runs into, such as tokenize.TokenError.
        raise _bad(f"{path} is not a file of embeddings ({error})") from error
    if not isinstance(mapped, np.ndarray) or mapped.ndim != 2 or mapped.dtype.kind != "f":
        raise _bad(f"{path} is not a table of floating-point numbers")
    return mapped


def _require_directions(path: Path) -> None:
    vectors = array(path)
    for start in range(0, len(vectors), 10_000):
        with np.errstate(all="ignore"):
            rows = np.asarray(vectors[start : start + 10_000], np.float32)
            lengths = np.linalg.norm(rows, axis=1)
        if len(bad := np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))):
            raise _bad(f"row {start + bad[0]} of {path} is not an embedding (zero or NaN)")


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (name := re.fullmatch(pattern, path.name)) and path.is_file():  # a FIFO would block
            number = int(name[1])
            if number in found:
                raise _bad(f"{found[number].name} and {path.name} in {folder} have the same number")
            found[number] = path
    return found


def manifest(folder: Path) -> dict[str, Any]:
    """The content of ``clipsearch.json``; empty if there is none. Raises ExchangeError."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_bytes())
        texts = all(isinstance(told[key], str) for key in ("model", "name", "fingerprint", "root"))
        if not (texts and isinstance(told.get("pretrained"), str | None)):
            raise TypeError("it is not in the format of export")
        if told["version"] != _VERSION:
            raise ValueError("it was written by a newer clipsearch")
        os.fsencode(told["root"])
    except KeyError as error:
        raise _bad(f"{path} lacks the entry {error.args[0]}") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _bad(f"cannot read {path}: {error}") from error
    return dict(told)


@dataclass(frozen=True, slots=True)
class Told:
    """The metadata of one embedding; missing values are None or 0."""

    path: bytes
    content_hash: bytes | None
    """Of the image that was embedded; other programs do not record it."""
    size: int
    mtime_ns: int
    width: int
    height: int
    taken_at: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    archived: Archived
    """Its archive is None for an image that is a file, and for one with no information."""


def rows_of(metadata: Path) -> Iterator[Told]:
    """The metadata of each embedding, in order.

    Raises ExchangeError for a row without a path, or with values that export cannot have written.
    """
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
            raise _bad(f"row {number} of {metadata} has an invalid content_hash") from error
        if not isinstance(path, bytes):
            raise _bad(f"row {number} of {metadata} has an invalid path_bytes")
        yield _told(path, content_hash, row)


def _told(path: bytes, content_hash: bytes | None, told: dict[str, Any]) -> Told:
    """Other programs' columns may hold anything: values of the wrong type are ignored."""
    archive = _text(told.get("archive"))
    return Told(
        path,
        content_hash,
        _count(told.get("bytes")),
        _count(told.get("mtime_ns")),
        _count(told.get("width")),
        _count(told.get("height")),
        _text(told.get("taken_at")),
        _text(told.get("camera")),
        *_place(told.get("latitude"), told.get("longitude")),
        Archived(
            archive.encode() if archive else None,
            _count(told.get("byte_offset")),
            _text(told.get("caption")),
            _text(told.get("url")),
        ),
    )


def _text(value: object) -> str | None:
    """Replace unpaired surrogates, which JSON can hold and a catalog cannot."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _count(value: object) -> int:
    """A whole number; pandas turns integer columns with gaps into floats."""
    if isinstance(value, int | float) and 0 <= value < 2**63:
        return int(value)
    return 0


def _place(*degrees: object) -> tuple[float | None, float | None]:
    latitude, longitude = degrees
    if isinstance(latitude, float) and isinstance(longitude, float):
        return latitude, longitude
    return None, None


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    pa, pq = pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            columns = sorted(_COLUMNS.keys() & set(file.schema_arrow.names))
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
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
        hint="import reads what export or clip-retrieval inference wrote: img_emb/img_emb_N.npy "
        "and metadata/metadata_N.parquet.",
    )
