"""Embed images into shards in clip-retrieval's layout: the part of the work that needs a cluster.

Each shard is made independently, by the process whose part contains it, and marked as finished
when its files are on disk (see ``finished``). So any process may be killed at any time, and the
same command makes what is missing. ``import`` turns the shards into an index.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.errors import ExchangeError, ImageError
from clipsearch.images import shards
from clipsearch.images.shards import Sample
from clipsearch.indexing.embed import (
    EmbedFiles,
    LoadEncoder,
    Outcome,
    Progress,
    embed_files,
    reason,
)
from clipsearch.indexing.transfer import finished, layout
from clipsearch.indexing.transfer.finished import Marker
from clipsearch.indexing.transfer.layout import EMBEDDINGS, MANIFEST, METADATA, Kind
from clipsearch.indexing.transfer.sources import Work, plan
from clipsearch.models.choice import ModelChoice, Notify
from clipsearch.records import Archived, EmbeddedImage, ImageFile, ModelFiles, ModelSpec

_PICTURES_AT_ONCE = 200_000
"""Their records and captions take half a gigabyte. A cluster loads the model once for them."""

_LONGEST_TEXT = 1 << 20
"""Bytes of a caption or of metadata: longer ones are not real captions, and are not read."""


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How to embed images into shards."""

    model: ModelChoice = field(default_factory=ModelChoice)
    part: tuple[int, int] = (1, 1)
    """Which part of the shards to make, and of how many; the first is 1."""
    kind: Kind = "parquet"
    """The format of the metadata."""
    max_pixels: int | None = None
    """Images with more pixels fail; None uses the machine's limit."""


@dataclass(slots=True)
class EmbedSummary:
    """The result of one run of ``embed``."""

    shards: int = 0
    """How many shards this run finished."""
    before: int = 0
    """How many shards were already finished."""
    embedded: int = 0
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    """Images that cannot be decoded, with the reason."""
    still_failed: int = 0
    """Failed images in the shards that were already finished."""
    left_out: list[tuple[bytes, str]] = field(default_factory=list)
    """Members of archives that belong to no image, with the reason."""
    damaged: list[tuple[bytes, str]] = field(default_factory=list)
    """Archives that may contain more images, with the reason. Their shards are not finished:
    they are made again when the archive has changed."""
    unreadable: list[tuple[bytes, str]] = field(default_factory=list)
    """Unreadable files and folders, with the reason. Their shards are not finished."""

    @property
    def is_whole(self) -> bool:
        """Whether all requested shards are finished and complete."""
        return not self.damaged and not self.unreadable


def embed(
    sources: Sequence[str],
    out: Path,
    options: EmbedOptions,
    *,
    embed_with: Callable[[ModelFiles], EmbedFiles] = lambda files: embed_files,
    progress: Progress = lambda doing, done, total: None,
    notify: Notify = lambda message: None,
) -> EmbedSummary:
    """Embed ``sources`` (see ``sources.plan``) into shards in the folder ``out``.

    Finished shards are not made again. embed_with: where images are embedded with a model, by
    default on this machine. Raises UsageError, ModelError, and ExchangeError if ``out`` is
    something else or cannot be written.
    """
    if options.kind == "parquet":
        layout.pyarrow()
    planned = plan(sources)
    files = options.model.files(notify)
    encoders = options.model.encoders(files)
    summary = EmbedSummary(unreadable=list(planned.unreadable))
    try:
        _begin(out, planned.root, files.spec)
        _require_no_others(out, planned.works)
        maker = _Maker(
            out, planned.root, files.spec, options, embed_with(files), cache(lambda: encoders.both)
        )
        works = planned.part(*options.part)
        for group in _in_groups(_to_make(works, out, summary, progress)):
            first, last = (works.index(shard.work) + 1 for shard in (group[0], group[-1]))
            which = f"shard {first}" if first == last else f"shards {first} to {last}"
            maker.make(group, summary, _told(progress, f"{which} of {len(works)}: "))
    except OSError as error:
        raise ExchangeError(
            f"cannot write {out}: {error.strerror or error}",
            hint="Free some disk space and run the command again; finished shards are kept.",
        ) from error
    return summary


def _told(progress: Progress, where: str) -> Progress:
    return lambda doing, done, total: progress(where + doing, done, total)


@dataclass(slots=True, eq=False)
class _Shard:
    """A shard in progress."""

    work: Work
    files: Sequence[ImageFile]
    """Relative to the root, or to the archive."""
    samples: Mapping[bytes, Sample]
    """For an archive: the data that goes with each image, by its path."""
    damage: str | None
    """Why the archive may contain more images; None if it was complete."""
    rows: dict[bytes, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    """Embedding ``(dim,)`` in fp16 and metadata, by the image's path."""
    failed: int = 0
    unreadable: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the outcome for every image is known."""
        return len(self.rows) + self.failed + self.unreadable == len(self.files)


def _to_make(
    works: Sequence[Work], out: Path, summary: EmbedSummary, progress: Progress
) -> Iterator[_Shard]:
    """The unfinished shards, with their images."""
    for work in works:
        marker = finished.marker_of(out, work.number)
        if marker is not None and marker.state == work.state:
            summary.still_failed += marker.failed
            if marker.damage:
                summary.damaged.append((work.name.encode(), marker.damage))
            else:
                summary.before += 1
        elif work.archive is None:
            yield _Shard(work, work.files, {}, None)
        else:
            progress("reading headers", 0, 0)
            shard = _of_archive(work, work.archive, summary)
            if shard is not None:
                yield shard


def _of_archive(work: Work, archive: Path, summary: EmbedSummary) -> _Shard | None:
    """The shard of an archive; None if it cannot be read, or is damaged from the start."""
    try:
        read = shards.read(os.fsencode(archive))
    except OSError as error:
        summary.unreadable.append((work.name.encode(), reason(error)))
        return None
    samples = dict(_pictures(work.name, read.samples))
    summary.left_out += _left_out(work.name, read)
    if read.damage:
        summary.damaged.append((work.name.encode(), read.damage))
        if not samples:
            return None
    files = tuple(map(_file, samples, samples.values()))
    return _Shard(work, files, samples, read.damage)


def _in_groups(made: Iterable[_Shard]) -> Iterator[list[_Shard]]:
    """Group the shards whose images are embedded together."""
    group: list[_Shard] = []
    for shard in made:
        group.append(shard)
        if sum(len(shard.files) for shard in group) >= _PICTURES_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _begin(out: Path, root: Path, spec: ModelSpec) -> None:
    """Create the folder, or check that it was started for the same images and model."""
    if not out.parent.is_dir():
        raise ExchangeError(
            f"cannot write {out.name}: the folder {out.parent} does not exist",
            hint="Create it first.",
        )
    out.mkdir(exist_ok=True)
    told = layout.manifest(out)
    if not told:
        if any(not found.name.startswith(".") for found in out.iterdir()):
            raise ExchangeError(
                f"{out} is not empty", hint="Name a new folder, or one that embed has started."
            )
        write = partial(layout.write_manifest, root=root, spec=spec, rows=None)
        finished.put(out / MANIFEST, write)
    elif "rows" in told or Path(told["root"]) != root:
        what = "is an export" if "rows" in told else f"is for the images in {told['root']}"
        raise ExchangeError(f"{out} {what}", hint="Name another folder.")
    elif told["fingerprint"] != spec.fingerprint:
        raise ExchangeError(
            f"{out} was started with {told['model']}, not with {spec.label}",
            hint="Name that model with --model and --pretrained, or another folder.",
        )
    for part in (EMBEDDINGS, METADATA, finished.FOLDER):
        (out / part).mkdir(exist_ok=True)


def _require_no_others(out: Path, works: Sequence[Work]) -> None:
    """Raise ExchangeError for shards of other archives, or of images that have left the folder.

    They would be imported along with the current shards. Archives may be added later.
    """
    names = {work.number: work.name for work in works}
    for number, marker in finished.markers(out):
        if works[0].archive is None:
            stale = number not in names
        else:
            stale = names.get(number, marker.source) != marker.source
        if stale:
            raise ExchangeError(
                f"shard {number} of {out} belongs to {marker.source}, which is no longer in the "
                "source",
                hint="Name another folder, or delete the shard's files.",
            )


class _Maker:
    """Makes shards, one after another, with one model."""

    def __init__(
        self,
        out: Path,
        root: Path,
        spec: ModelSpec,
        options: EmbedOptions,
        embed_files: EmbedFiles,
        load_encoder: LoadEncoder,
    ) -> None:
        self._out = out
        self._root = root
        self._spec = spec
        self._options = options
        self._embed_files = embed_files
        self._load_encoder = load_encoder

    def make(self, group: Sequence[_Shard], summary: EmbedSummary, progress: Progress) -> None:
        """Embed the images of some shards, and write each shard once all its images are known.

        Raises ModelError, and OSError if a shard cannot be written.
        """
        of = {file.path: shard for shard in group for file in shard.files}
        for shard in group:
            if not shard.files:
                self._finish(shard, summary)
        for batch in self._embed_files(
            os.fsencode(self._root),
            [file for shard in group for file in shard.files],
            self._spec.preprocessing,
            self._load_encoder,
            max_pixels=self._options.max_pixels,
            progress=progress,
        ):
            for file, outcome in batch:
                shard = of.pop(file.path)
                self._take(shard, file, outcome, summary)
                if shard.is_complete:
                    self._finish(shard, summary)

    def _take(
        self, shard: _Shard, file: ImageFile, outcome: Outcome, summary: EmbedSummary
    ) -> None:
        match outcome:
            case EmbeddedImage():
                half = outcome.vector.astype(np.float16)
                if file.path in shard.samples:
                    told = _beside(shard.samples[file.path], shard.work.name, file)
                    outcome = replace(outcome, archived=told)
                shard.rows[file.path] = half, layout.row_of(outcome, os.fsencode(self._root))
            case ImageError():
                shard.failed += 1
                summary.failed.append((file.path, str(outcome)))
            case OSError():
                shard.unreadable += 1
                summary.unreadable.append((file.path, reason(outcome)))

    def _finish(self, shard: _Shard, summary: EmbedSummary) -> None:
        """Write a shard and mark it as finished, if all of it was readable."""
        if shard.unreadable:
            return
        rows = [shard.rows[file.path] for file in shard.files if file.path in shard.rows]
        self._write(shard.work, rows, shard.failed, shard.damage)
        shard.rows.clear()
        summary.shards += shard.damage is None
        summary.embedded += len(rows)

    def _write(
        self,
        work: Work,
        rows: Sequence[tuple[Any, dict[str, Any]]],
        failed: int,
        damage: str | None,
    ) -> None:
        out, number = self._out, work.number
        vectors = np.empty((len(rows), self._spec.dim), np.float16)
        for n, (vector, _) in enumerate(rows):
            vectors[n] = vector
        told = [row for _, row in rows]
        embeddings = f"{EMBEDDINGS}/img_emb_{number}.npy"
        metadata = f"{METADATA}/metadata_{number}.{self._options.kind}"
        finished.unmark(out, number)
        for earlier in (out / METADATA).glob(f"metadata_{number}.*"):
            earlier.unlink()  # it may be in the other format
        digests = {
            embeddings: finished.put(
                out / embeddings, partial(layout.write_embeddings, vectors=vectors)
            ),
            metadata: finished.put(out / metadata, partial(layout.write_metadata, rows=told)),
        }
        marker = Marker(work.name, work.state, len(rows), failed, damage, digests)
        finished.mark(out, number, marker)


def _pictures(archive: str, samples: Sequence[Sample]) -> Iterator[tuple[bytes, Sample]]:
    """The samples that have an image, by path."""
    for sample in samples:
        if sample.picture is not None:
            yield archive.encode() + b"/" + sample.picture.name, sample


def _file(path: bytes, sample: Sample) -> ImageFile:
    assert sample.picture is not None
    _, span, mtime_ns = sample.picture
    return ImageFile(path, span.size, mtime_ns, span)


def _left_out(archive: str, shard: shards.Shard) -> Iterator[tuple[bytes, str]]:
    before = archive.encode() + b"/"
    for name, why in shard.odd:
        yield before + name, why
    for sample in shard.samples:
        if sample.picture is None:
            yield before + sample.key, "there is no image with that key"
        for kind, member in sample.members.items():
            if kind in shards.PICTURES and member is not sample.picture:
                yield before + member.name, "a second image with the same key"


def _beside(sample: Sample, archive: str, file: ImageFile) -> Archived:
    """Data from the members next to an image: webdataset's .txt, img2dataset's .json."""
    assert file.span is not None
    told: dict[str, Any] = {}
    with suppress(ValueError, RecursionError):
        found = json.loads(_text(sample, "json") or "{}")
        told = found if isinstance(found, dict) else {}
    caption = _text(sample, "txt")
    if caption is None and isinstance(told.get("caption"), str):
        caption = told["caption"]
    url = told.get("url")
    return Archived(
        archive.encode(),
        file.span.offset,
        caption and _valid(caption),
        _valid(url) if isinstance(url, str) else None,
    )


def _text(sample: Sample, extension: str) -> str | None:
    member = sample.members.get(extension)
    if member is None or member.span.size > _LONGEST_TEXT:
        return None
    with shards.opened(member.span) as file:
        return file.read().decode("utf-8", "replace")


def _valid(text: str) -> str:
    """Text that UTF-8 can encode: JSON may contain an unpaired surrogate."""
    return text.encode("utf-8", "replace").decode()
