"""Check that an index is intact and matches its folder, and repair it.

Derived data is rebuilt: the FAISS file from the catalog, and an embedding from its image in the
next run of ``index``. Only what the catalog alone held can be lost, and it is listed.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from clipsearch.indexing.changes import diff
from clipsearch.indexing.embed import LoadEncoder, embed_files
from clipsearch.records import EmbeddedImage, Found, ImageFile, Span
from clipsearch.storage.catalog import Store
from clipsearch.storage.rescue import Rescued, rescue
from clipsearch.text import number_of

SAME = 0.99
"""A recomputed embedding differs by rounding and device: the lowest measured was 0.9999."""

Kind = Literal["catalog", "embedding", "vector file", "behind"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect."""

    kind: Kind
    """``behind`` is not damage: the folder has changed since, and ``index`` will update it."""
    text: str
    path: bytes | None = None
    """The image that it concerns, if any."""
    id: int | None = None


def verify(
    store: Store, found: Found | None, load_encoder: LoadEncoder | None, sample: int
) -> Iterator[Problem]:
    """Check an index against itself, the FAISS file and its images.

    found: what is in the folder, or None to skip the folder. sample: how many embeddings to
    recompute from their images and compare; none without ``load_encoder``.
    """
    broken = store.sqlite_problems()
    yield from (Problem("catalog", text) for text in broken)
    if broken:
        return  # nothing else in it can be trusted
    if problem := store.vector_file_problem():
        yield Problem("vector file", problem)
    bad = store.bad_vectors()
    for id, path in bad:
        yield Problem("embedding", "its embedding is missing or damaged", path, id)
    if found is None:
        return
    known = store.known()
    changes = diff(found.files, known, [path for path, _ in found.unreadable])
    for name, count in (
        ("new", len(changes.added)),
        ("changed", len(changes.changed)),
        ("missing", len(changes.missing)),
    ):
        if count:
            yield Problem(
                "behind", f"{number_of(count, 'file')} {name} since the last run of index"
            )
    if load_encoder is not None and sample:
        passed_over = {file.path for file in changes.changed} | set(changes.missing)
        passed_over |= {path for _, path in bad}
        good = [
            (ImageFile(path, 0, 0), entry.id)
            for path, entry in sorted(known.items())
            if not entry.failed and path not in passed_over
        ]
        good += [
            (ImageFile(image.path, 0, 0, image.span), image.id)
            for image in store.images()
            if image.span is not None and image.path not in passed_over
        ]
        yield from _wrong_embeddings(store, good, load_encoder, sample)


def _wrong_embeddings(
    store: Store,
    good: list[tuple[ImageFile, int]],
    load_encoder: LoadEncoder,
    sample: int,
) -> Iterator[Problem]:
    chosen = np.random.default_rng().permutation(len(good))[:sample]
    ids = dict(good[n] for n in sorted(chosen))
    root = os.fsencode(store.root)
    prepared, limit = store.spec.preprocessing, store.scope.max_pixels
    for batch in embed_files(root, list(ids), prepared, load_encoder, max_pixels=limit):
        for file, outcome in batch:
            # Otherwise it changed since the walk; the next run of index will notice.
            if isinstance(outcome, EmbeddedImage) and _is_still(store, file, outcome):
                yield from _unlike(store, ids[file], outcome)


def _is_still(store: Store, file: ImageFile, made: EmbeddedImage) -> bool:
    """Whether a member of an archive is still the embedded image: archives get replaced."""
    if file.span is None:
        return True
    return any(path == file.path for _, path in store.find_content(made.content_hash))


def _unlike(store: Store, id: int, made: EmbeddedImage) -> Iterator[Problem]:
    """Report a stored embedding that does not match the one made now."""
    with suppress(KeyError):  # removed a moment ago
        similarity = float(made.vector @ store.vector(id))
        if similarity < SAME:
            text = f"its embedding is wrong (cosine {similarity:.3f} to a recomputed one)"
            yield Problem("embedding", text, made.file.path, id)


def repair(store: Store, problems: list[Problem]) -> list[str]:
    """Repair what ``verify`` found in a readable catalog; list what was done and what remains.

    ``store`` is open for writing. Raises StoreError if it cannot be written.
    """
    done = []
    wrong = {problem.id for problem in problems if problem.id is not None}
    if wrong:
        archived = any(isinstance(store.source_of(id), Span) for id in wrong)
        with store.batch():
            store.forget(wrong)
        done.append(
            f"removed {number_of(len(wrong), 'image')} with a wrong embedding from the index"
        )
    if wrong or any(problem.kind == "vector file" for problem in problems):
        store.update_vector_index(force=True)
        done.append("the vector file was written again")
    if wrong:
        again = f"clipsearch index {store.root}"
        if archived:
            again += "; for those in archives, clipsearch embed, then clipsearch import"
        done.append(f"to embed the removed images again: {again}")
    return done


def salvage(directory: Path) -> Rescued:
    """Replace a damaged catalog with one that has all that is still readable.

    Raises StoreError.
    """
    with Store.open(directory) as old:
        root, spec = old.root, old.spec
    return rescue(directory, root, lambda: spec)
