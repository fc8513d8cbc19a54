"""Bring a store up to date with its folder, embedding as little as possible."""

import os
import time
from collections.abc import Mapping, Sequence
from functools import cache

from clipsearch.errors import CollectionGone, ImageError
from clipsearch.images.limits import Limits
from clipsearch.images.pool import DecodePool
from clipsearch.images.scan import content_hash, folder_of, is_excluded
from clipsearch.indexing.changes import IndexSummary, diff, is_worth_a_try
from clipsearch.indexing.embed import (
    EmbedFiles,
    LoadEncoder,
    Outcome,
    Progress,
    embed_files,
    reason,
)
from clipsearch.paths import absolute
from clipsearch.records import (
    EmbeddedImage,
    Failure,
    Found,
    ImageFile,
    KnownImage,
    Origin,
    TextEncoder,
    Vectors,
)
from clipsearch.storage.catalog import Store

_LOSS_SHARE, _LOSS_COUNT = 0.2, 20
"""If more than both of these are missing at once, an unmounted disk is more likely than cleanup."""

_FILES_PER_COMMIT = 500
"""How many moved, copied or inspected files share a commit, which costs an fsync."""

_READERS = 8
"""How many headers are read in parallel: on a network share, each read takes milliseconds."""


def reconcile(
    store: Store,
    found: Found,
    load_encoder: LoadEncoder,
    *,
    under: bytes = b"",
    prune: bool = False,
    try_failed: bool = True,
    embed: EmbedFiles = embed_files,
    progress: Progress = lambda doing, done, total: None,
) -> IndexSummary:
    """Make ``store`` match what was ``found`` below ``under``, within its scope.

    load_encoder: called at most once, and only if there is an image to embed (decoding runs
    meanwhile) or the collection is so large that it needs clusters for search. prune: remove
    missing images even if they are much of the collection. try_failed: decode failed images again
    if they may succeed now. embed: where images are embedded.

    Each batch is committed as soon as it is embedded. Raises CollectionGone, before anything is
    removed, if too much is missing at once. After ModelError and StoreError, commits are kept.
    """
    started = time.monotonic()
    load_encoder = cache(load_encoder)
    known = store.known(under, found)
    as_before = sum(found.same.values())
    scope = store.scope
    limits = Limits.here(scope.max_pixels)
    changes = diff(found.files, known, [path for path, _ in found.unreadable], limits)
    again = changes.again if try_failed else []
    passed_over = len(changes.again) - len(again)
    summary = IndexSummary(
        unchanged=changes.unchanged + as_before,
        still_failed=changes.still_failed + passed_over,
        waiting=passed_over,
        unreadable=list(found.unreadable),
        links=found.links,
        ignored=found.ignored,
    )
    missing = set(changes.missing)
    candidates = sorted([*changes.added, *changes.changed, *again])
    to_embed = _reuse(store, candidates, known, missing, summary, progress)
    excluded = {path for path in missing if is_excluded(path, scope.exclude)}
    left = as_before + len(known) - len(excluded)
    _guard_against_loss(store, found, left, missing - excluded, prune)
    if missing:
        with store.batch():
            store.remove(missing)
        summary.removed = len(missing)
    if any(entry.unseen for entry in known.values()):
        _look_at(store, found, under, summary, progress)
    for batch in embed(
        os.fsencode(store.root),
        to_embed,
        store.spec.preprocessing,
        load_encoder,
        max_pixels=scope.max_pixels,
        progress=progress,
    ):
        _commit(store, batch, known, limits, summary)
    store.list_folders({folder_of(file.path) for file in found.files})
    store.update_vector_index(lambda: class_prompts(load_encoder(), progress), progress=progress)
    summary.seconds = time.monotonic() - started
    return summary


def class_prompts(encoder: TextEncoder, progress: Progress) -> Vectors:
    """Embeddings ``(classes, dim)`` of texts that resemble typical queries."""
    from clipsearch.domain import taxonomy  # here, because few collections are so large
    from clipsearch.domain.zero_shot import encode_all

    domain = taxonomy.load(taxonomy.DEFAULT)
    prompts = [domain.prompts(index)[0] for index in range(len(domain.classes))]
    progress("embedding texts", 0, len(prompts))
    return encode_all(encoder, prompts)


def _guard_against_loss(
    store: Store,
    found: Found,
    known: int,
    missing: set[bytes],
    prune: bool,
) -> None:
    all_gone = bool(missing) and not (found.files or found.same)
    many_gone = len(missing) > max(_LOSS_COUNT, _LOSS_SHARE * known)
    if (all_gone or many_gone) and not prune:
        raise CollectionGone(
            f"{len(missing)} of {known} indexed images are missing from {store.root}",
            hint="Nothing was removed from the index. Is the disk mounted? "
            "If the images are gone for good, add --prune.",
        )


def _reuse(
    store: Store,
    candidates: list[ImageFile],
    known: dict[bytes, KnownImage],
    missing: set[bytes],
    summary: IndexSummary,
    progress: Progress,
) -> list[ImageFile]:
    """Give files with known content their existing vectors; return the other files.

    Only a file whose size matches an indexed image is read. If a path turns out to be the old
    name of a moved file, it is removed from ``missing``.
    """
    sizes = store.sizes_among(file.size for file in candidates) if candidates else set()
    others = [file for file in candidates if file.size not in sizes]
    alike = [file for file in candidates if file.size in sizes]
    for start in range(0, len(alike), _FILES_PER_COMMIT):
        progress("comparing", start, len(alike))
        some = alike[start : start + _FILES_PER_COMMIT]
        hashes = [_content_hash(store, file) for file in some]
        with store.batch():
            for file, digest in zip(some, hashes, strict=True):
                same = store.find_content(digest) if digest else []
                if not same:
                    others.append(file)
                    continue
                here = next((id for id, path in same if path == file.path), None)
                moved = next(((id, path) for id, path in same if path in missing), None)
                if here is not None:  # only touched
                    store.move(here, file)
                    summary.unchanged += 1
                elif moved is not None:
                    store.move(moved[0], file)
                    missing.remove(moved[1])
                    summary.moved += 1
                else:
                    store.add_copy(file, same[0][0])
                    _count(file, known, summary)
    return sorted(others)


def _count(file: ImageFile, known: Mapping[bytes, KnownImage], summary: IndexSummary) -> None:
    """Count an image as new or as changed."""
    entry = known.get(file.path)
    if entry is None or _is_as_known(file, entry):  # in the second case, it failed before
        summary.added += 1
    else:
        summary.changed += 1


def _is_as_known(file: ImageFile, entry: KnownImage) -> bool:
    return (entry.size, entry.mtime_ns) == (file.size, file.mtime_ns)


def _content_hash(store: Store, file: ImageFile) -> bytes | None:
    try:
        with open(absolute(os.fsencode(store.root), file.path), "rb") as opened:
            return content_hash(opened)
    except OSError:
        return None  # the decoder will hit the same error and report it


def _look_at(
    store: Store, found: Found, under: bytes, summary: IndexSummary, progress: Progress
) -> None:
    """Read camera and place for images that were indexed by a version that did not read them.

    Only headers are read, once per image.
    """
    root = os.fsencode(store.root)
    known = store.known(under, found)  # the current state: files were moved and copied
    unseen = {
        (path, entry.size, entry.mtime_ns): entry.id
        for path, entry in known.items()
        if entry.unseen
    }
    files = [file for file in found.files if file[:3] in unseen]
    origins: list[tuple[int, Origin]] = []
    with DecodePool(
        root, files, "origin", max_pixels=None, ahead=_FILES_PER_COMMIT, workers=_READERS
    ) as pool:
        for done, (file, outcome) in enumerate(pool, start=1):
            if not isinstance(outcome, OSError):  # the next run will hit it again
                origins.append(
                    (unseen[file[:3]], outcome if isinstance(outcome, Origin) else Origin())
                )
            if len(origins) == _FILES_PER_COMMIT or done == len(files):
                progress("reading cameras and places", done, len(files))
                with store.batch():
                    store.set_origins(origins)
                summary.looked_at += len(origins)
                origins = []


def _commit(
    store: Store,
    batch: Sequence[tuple[ImageFile, Outcome]],
    known: Mapping[bytes, KnownImage],
    limits: Limits,
    summary: IndexSummary,
) -> None:
    """Store the outcomes of some files."""
    with store.batch():
        for file, outcome in batch:
            match outcome:
                case EmbeddedImage():
                    store.add([outcome])
                    summary.embedded += 1
                    _count(file, known, summary)
                case ImageError():
                    failure = _failure(file, outcome, known.get(file.path), limits)
                    store.add_failed(file, str(outcome), failure)
                    summary.failed.append((file.path, str(outcome)))
                    summary.waiting += is_worth_a_try(failure, limits)
                case FileNotFoundError():
                    pass  # deleted since the walk; the next run will notice
                case OSError():
                    summary.unreadable.append((file.path, reason(outcome)))


def _failure(
    file: ImageFile, error: ImageError, before: KnownImage | None, limits: Limits
) -> Failure:
    """The record of a failure. before: the catalog's entry for the file's path."""
    failed = before.failure if before and _is_as_known(file, before) else None
    tries = failed.tries if failed and failed.decoders == limits.decoders else 0
    return Failure(error.kind, limits.decoders, error.pixels, tries + 1)
