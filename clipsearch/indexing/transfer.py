"""Embeddings to and from other programs, in the layout that clip-retrieval writes and reads.

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
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ExchangeError, ImageError
from clipsearch.images.pool import DecodePool
from clipsearch.indexing.embed import LoadEncoder, Progress, embed_files, reason
from clipsearch.indexing.verify import SAME
from clipsearch.paths import absolute
from clipsearch.records import (
    EmbeddedImage,
    Filter,
    Found,
    ImageFile,
    KnownImage,
    ModelSpec,
    SeenImage,
    Vectors,
)
from clipsearch.storage.catalog import Store
from clipsearch.storage.vector_file import Ids
from clipsearch.vectors import l2_normalise

Kind = Literal["parquet", "jsonl"]

EMBEDDINGS, METADATA, MANIFEST = "img_emb", "metadata", "clipsearch.json"

_VERSION = 1
"""Of what the manifest tells; keys are only ever added to it."""

_ROWS_PER_SHARD = 100_000
"""A hundred megabytes with 512 dimensions."""

_FILES_PER_COMMIT = 500
"""How many imported pictures share a commit, which costs an fsync."""

_SEEN_AHEAD = 64

_UNIT = 0.001
"""How far rounding to fp16 takes a unit vector's length from 1."""


# -- export --------------------------------------------------------------------------------------


def export(store: Store, folder: Path, kind: Kind, only: Filter, progress: Progress) -> int:
    """Write the pictures that a filter lets through to ``folder``; how many they are.

    All of it is there in the end, or nothing is. Raises ExchangeError if ``folder`` is not empty,
    if it cannot be written to, or if parquet is wanted and pyarrow is not installed; nothing is
    written where no picture passes.
    """
    _require_new(folder)
    folder = Path(os.path.abspath(folder))
    if kind == "parquet":
        _pyarrow()
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
        _write(unfinished / MANIFEST, _manifest(store, rows))
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except OSError as error:
        raise ExchangeError(
            f"cannot write {folder}: {error.strerror or error}",
            hint="Nothing was written. Name a new folder on a disk with room.",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sum(rows)


def _require_new(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise ExchangeError(
            f"there is no folder {folder.parent} to write {folder.name} to", hint="Make it first."
        )
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ExchangeError(f"{folder} is no folder", hint="Name a new one.")
    if folder.exists() and any(folder.iterdir()):
        raise ExchangeError(
            f"{folder} is not empty", hint="Name a new folder; nothing is ever overwritten."
        )


def _write_shard(embeddings: Path, metadata: Path, store: Store, ids: Ids) -> int:
    """How many pictures it has: one may have been removed meanwhile."""
    root = os.fsencode(store.root)
    vectors = np.empty((len(ids), store.spec.dim), np.float16)
    rows: list[dict[str, Any]] = []
    for image in store.whole(ids):
        vectors[len(rows)] = image.vector
        rows.append(_row(image, root))
    with embeddings.open("wb") as file:
        np.save(file, vectors[: len(rows)])
        _to_disk(file)
    if metadata.suffix == ".parquet":
        _write_parquet(metadata, rows)
        return len(rows)
    for row in rows:
        if row["path_bytes"] is not None:
            row["path_bytes"] = base64.b64encode(row["path_bytes"]).decode("ascii")
    _write(metadata, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    pa, pq = _pyarrow()
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


def _row(image: EmbeddedImage, root: bytes) -> dict[str, Any]:
    path = absolute(root, image.file.path)
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
        "content_hash": image.content_hash.hex(),
    }


def _manifest(store: Store, rows: Sequence[int]) -> str:
    told = {
        "version": _VERSION,
        "model": store.spec.label,
        "name": store.spec.name,
        "pretrained": store.spec.pretrained,
        "fingerprint": store.spec.fingerprint,
        "dim": store.spec.dim,
        "rows": rows,
        "root": os.fsdecode(store.root),  # what is not UTF-8 in it becomes an escape
    }
    return json.dumps(told, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        _to_disk(file)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExchangeError(
            "parquet files need pyarrow, which is not installed",
            hint="Install it with: pip install 'clipsearch[parquet]'. "
            "export --npy does without: it writes the metadata as JSON lines.",
        ) from error
    return pyarrow, pyarrow.parquet


# -- import --------------------------------------------------------------------------------------


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


class Row(NamedTuple):
    """An embedding and the file that it is of."""

    file: ImageFile
    shard: int
    row: int
    content_hash: bytes | None
    """What the picture was when it was embedded, where the export tells."""

    def is_of(self, seen: SeenImage) -> bool:
        """Whether the embedding is of what there is to be seen now.

        Where the export does not tell, another program may have made it: a picture that not all
        programs show alike may then have another embedding.
        """
        return seen.alike if self.content_hash is None else self.content_hash == seen.content_hash


@dataclass(frozen=True, slots=True)
class Matched:
    """Which rows of an export belong to which files."""

    wanted: tuple[Row, ...]
    """Those that are to be imported."""
    known: int
    """Rows of pictures that the index has."""
    missing: tuple[bytes, ...]
    """Paths, as the export has them, that name no picture in the folder."""
    duplicates: tuple[bytes, ...]
    """Paths that an earlier row had already."""


@dataclass(slots=True)
class Imported:
    """What became of the rows that were to be imported."""

    added: int = 0
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    """Pictures that cannot be read, with the reason."""
    left: list[bytes] = field(default_factory=list)
    """Pictures that have changed since, or that not all programs show alike: see ``Row.is_of``."""


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
        count, dim = _array(found[number]).shape
        named = sum(1 for _ in _rows(described[number]))
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


def require_model(exported: Export, spec: ModelSpec) -> None:
    """Raise ExchangeError if an export cannot be this model's."""
    if exported.told.get("fingerprint", spec.fingerprint) != spec.fingerprint:
        raise ExchangeError(
            f"the embeddings in {exported.folder} are of {exported.told['model']}, "
            f"and not of {spec.label}",
            hint="Import them with their own model: leave --model out, or give another --index.",
        )
    if exported.dim != spec.dim:
        raise ExchangeError(
            f"the embeddings in {exported.folder} have {exported.dim} dimensions, "
            f"and {spec.label} makes {spec.dim}",
            hint="Name the model that made them with --model and --pretrained.",
        )


def match(
    exported: Export, folder: bytes, root: bytes, found: Found, known: dict[bytes, KnownImage]
) -> Matched:
    """Find the file that each row of an export is about.

    folder: where the pictures are, absolute. root: the collection's, which holds it. found: the
    pictures below ``folder``. A row's path is absolute, or relative to ``folder`` or to the
    current folder; or it lies below the folder that was exported as its file does below this one.
    """
    files = {file.path: file for file in found.files}
    place = _Places(folder, root, exported.told.get("root"))
    wanted, missing, duplicates = [], [], []
    seen: set[bytes] = set()
    old = 0
    for number, shard in enumerate(exported.shards):
        for row, (path, content_hash) in enumerate(_rows(shard.metadata)):
            file = next((files[here] for here in place(path) if here in files), None)
            if file is None:
                missing.append(path)
            elif file.path in seen:
                duplicates.append(path)
            else:
                seen.add(file.path)
                entry = known.get(file.path)
                if entry is None or entry.failed or (entry.size, entry.mtime_ns) != file[1:]:
                    wanted.append(Row(file, number, row, content_hash))
                else:
                    old += 1
    return Matched(tuple(wanted), old, tuple(missing), tuple(duplicates))


def check(
    exported: Export,
    matched: Matched,
    root: bytes,
    spec: ModelSpec,
    load_encoder: LoadEncoder,
    sample: int,
    progress: Progress,
) -> int:
    """Make a sample of the embeddings anew from the pictures; how many were compared.

    The same model agrees with itself up to rounding, the device and the reduced decoding of large
    JPEGs: cosines of 0.99 and more. Another model's embeddings, or those of other pictures, are
    far below. Raises ExchangeError if one does not agree, or if none can be compared.
    """
    load_encoder = cache(load_encoder)
    order = np.random.default_rng().permutation(len(matched.wanted))
    candidates = _comparable((matched.wanted[n] for n in order), root)
    compared = 0
    while rows := {row.file: row for row in islice(candidates, sample - compared)}:
        for batch in embed_files(
            root, list(rows), spec.preprocessing, load_encoder, progress=progress
        ):
            for file, outcome in batch:
                if isinstance(outcome, EmbeddedImage):
                    _require_same(exported, rows[file], outcome, spec)
                    compared += 1
    if not compared:
        raise ExchangeError(
            f"none of the pictures that {exported.folder} is about can be compared with it",
            hint="Nothing was imported. Embed them with: clipsearch index FOLDER",
        )
    return compared


def _comparable(rows: Iterable[Row], root: bytes) -> Iterator[Row]:
    """Those rows whose files are still what was embedded."""
    from clipsearch.images.decode import see  # here, since it is slow to load

    for row in rows:
        with suppress(ImageError, OSError):
            if row.is_of(see(absolute(root, row.file.path))):
                yield row


def _require_same(exported: Export, row: Row, made: EmbeddedImage, spec: ModelSpec) -> None:
    """Raise ExchangeError if a row is not the embedding that was made of its picture now."""
    stored = _unit(_array(exported.shards[row.shard].embeddings)[row.row])
    similarity = float(made.vector @ stored)
    if similarity < SAME:
        raise ExchangeError(
            f"the embeddings in {exported.folder} are of another model than {spec.label}, or "
            f"of other pictures: that of {os.fsdecode(row.file.path)} has a cosine of "
            f"{similarity:.3f} to one made anew",
            hint="Nothing was imported. Name the model that made them with --model and "
            "--pretrained.",
        )


def add(store: Store, exported: Export, matched: Matched, progress: Progress) -> Imported:
    """Add embeddings to a store, which is of their model; every batch is committed at once.

    Their files are read, and their headers looked at, but nothing is decoded.
    """
    done = Imported()
    rows = {row.file.path: row for row in matched.wanted}
    files = [row.file for row in matched.wanted]
    with DecodePool(
        os.fsencode(store.root), files, None, max_pixels=None, ahead=_SEEN_AHEAD
    ) as pool:
        waiting: list[tuple[Row, SeenImage]] = []
        for count, (file, outcome) in enumerate(pool, start=1):
            match outcome:
                case SeenImage() if rows[file.path].is_of(outcome):
                    waiting.append((rows[file.path], outcome))
                case SeenImage():
                    done.left.append(file.path)
                case ImageError() | OSError():
                    done.failed.append((file.path, reason(outcome)))
            if len(waiting) == _FILES_PER_COMMIT or count == len(files):
                images = list(_embedded(exported, waiting))
                with store.batch():
                    store.add(images)
                done.added += len(images)
                waiting = []
                progress("importing", count, len(files))
    return done


def _embedded(exported: Export, seen: Iterable[tuple[Row, SeenImage]]) -> Iterator[EmbeddedImage]:
    arrays: dict[int, npt.NDArray[Any]] = {}
    for row, image in seen:
        if row.shard not in arrays:
            arrays[row.shard] = _array(exported.shards[row.shard].embeddings)
        facts = (image.content_hash, image.width, image.height, image.taken_at)
        yield EmbeddedImage(row.file, *facts, _unit(arrays[row.shard][row.row]), *image.origin)


class _Places:
    """Where the file of a path may lie, relative to a collection's root."""

    def __init__(self, folder: bytes, root: bytes, exported: str | None) -> None:
        self._folder, self._here = folder, os.fsencode(os.path.realpath("."))
        self._root = os.path.join(root, b"")
        self._exported = os.path.join(os.fsencode(exported), b"") if exported else None
        self._real: dict[bytes, bytes] = {}

    def __call__(self, path: bytes) -> Iterator[bytes]:
        if b"\0" in path:
            return
        tried = [os.path.join(self._folder, path), os.path.join(self._here, path)]
        if self._exported and path.startswith(self._exported):
            tried.append(os.path.join(self._folder, path.removeprefix(self._exported)))
        for whole in tried:
            above, name = os.path.split(whole)
            if above not in self._real:
                self._real[above] = os.path.realpath(above)
            whole = os.path.join(self._real[above], name)
            if whole.startswith(self._root):
                yield whole.removeprefix(self._root).replace(os.fsencode(os.sep), b"/")


def _unit(vector: npt.NDArray[Any]) -> Vectors:
    """A row as a unit vector, ``(dim,)``: as it is where rounding alone makes it longer."""
    exact = np.asarray(vector, np.float32)
    return exact if abs(float(np.linalg.norm(exact)) - 1) < _UNIT else l2_normalise(exact)


def _array(path: Path) -> npt.NDArray[Any]:
    """A file of embeddings, mapped: ``(rows, dim)``, of some float type."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # numpy raises whatever its parser of headers stumbles over, tokenize.TokenError say.
        raise _bad(f"{path} is no file of embeddings ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise _bad(f"{path} is no table of floating-point numbers")
    return array


def _require_directions(path: Path) -> None:
    array = _array(path)
    for start in range(0, len(array), 10_000):
        with np.errstate(all="ignore"):
            rows = np.asarray(array[start : start + 10_000], np.float32)
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


def _rows(metadata: Path) -> Iterator[tuple[bytes, bytes | None]]:
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
    pa, pq = _pyarrow()
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
