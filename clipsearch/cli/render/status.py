"""Renders what is indexed, what an update did, and the available models."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipsearch.cli.render.json_lines import json_path
from clipsearch.images.limits import Limits
from clipsearch.indexing.changes import IndexSummary, is_worth_a_try
from clipsearch.records import ClusterSearch, CollectionStatus, Scope
from clipsearch.storage.collection import Collection, tested_line
from clipsearch.text import endings_text, number_of, printable, size_text


def summary_lines(root: str, summary: IndexSummary) -> list[str]:
    """What a run of ``index`` did, failures first."""
    lines = [
        f"skipping {printable(os.fsdecode(path))}: {printable(reason)}"
        for path, reason in summary.failed
    ]
    lines += [
        f"cannot read {printable(os.fsdecode(path))}: {printable(reason)}"
        for path, reason in summary.unreadable
    ]
    pictures = summary.added + summary.changed + summary.moved + summary.unchanged
    pictures += len(summary.failed) + summary.still_failed
    ignored = sum(summary.ignored.values())
    if ignored >= max(pictures, 1):  # sidecars of a few images are not worth a line
        what = "ignored" if pictures else "no images that clipsearch can read; ignored"
        files = f"{number_of(ignored, 'file')}: {endings_text(summary.ignored)}"
        lines.append(f"{printable(root)}: {what} {files}")
    counts = [
        (summary.added, "added"),
        (summary.changed, "changed"),
        (summary.moved, "moved"),
        (summary.removed, "removed"),
        (summary.unchanged, "unchanged"),
        (len(summary.failed), "failed"),
        (summary.still_failed, "failed earlier and unchanged since"),
        (summary.waiting, "to be retried by the next run"),
        (summary.links, "links not followed" if summary.links > 1 else "link not followed"),
    ]
    said = [f"{count:,} {what}" for count, what in counts if count]
    text = f"{printable(root)}: {', '.join(said) or 'no images'}"
    if summary.looked_at:
        text += f"; camera and place read from {summary.looked_at}"
    if summary.embedded:
        text += f"; {summary.embedded:,} embedded in {summary.seconds:.1f} s"
    return [*lines, text, *([f"{printable(root)}: {summary.tested}"] if summary.tested else [])]


def status_text(status: CollectionStatus, collection: Collection, model_here: str) -> str:
    """One collection as text."""
    spec, again = status.spec, _to_be_tried_again(status)
    lines = [
        printable(os.fspath(status.root)),
        f"  images   {status.images:,}"
        + (f", {status.archived:,} of them in archives" if status.archived else ""),
        f"  failed   {len(status.failed)}{f', {again} to be retried' if again else ''}",
        *(
            f"           {printable(os.fsdecode(path))}: {printable(why)}"
            for path, why in status.failed
        ),
        f"  model    {printable(spec.label)} ({spec.dim} dimensions, {model_here})",
        f"  domain   {printable(collection.domain.name)} "
        f"({number_of(len(collection.domain.classes), 'class', 'classes')})",
        f"  answers  {tested_line(collection)}",
        *([] if collection.is_calibrated else ["           not calibrated yet: no verdicts"]),
        f"  index    {printable(os.fspath(status.directory))}",
        *_scope_lines(status.scope),
        f"  sizes    catalog {size_text(status.catalog_bytes)}, "
        f"vectors {size_text(status.vector_bytes)}",
        f"  search   {_search_text(status.clusters)}",
        *_damage_lines(status),
        f"  created  {status.created_at}",
        f"  updated  {status.updated_at}",
    ]
    return "\n".join(lines)


def _to_be_tried_again(status: CollectionStatus) -> int:
    """How many failed images the next run of ``index`` retries."""
    limits = Limits.here(status.scope.max_pixels)
    return sum(is_worth_a_try(failure, limits) for failure in status.failures)


def _scope_lines(scope: Scope) -> list[str]:
    lines = [f"  excluded {printable(glob)}" for glob in scope.exclude]
    if scope.max_pixels is not None:
        lines.append(f"  limit    {scope.max_pixels:,} pixels per image")
    return lines


def _damage_lines(status: CollectionStatus) -> Iterator[str]:
    if status.damage and status.vector_bytes:  # a missing file is simply written
        yield (
            f"  damage   the vector file cannot be used: {status.damage}; searches use the "
            "catalog, and the next search or index rewrites it"
        )
    if status.left_out:
        yield (
            f"  damage   {number_of(status.left_out, 'image')} left out of searches: "
            "damaged embedding; repair with: clipsearch verify --repair, then clipsearch index"
        )


def _search_text(clusters: ClusterSearch | None) -> str:
    if clusters is None:
        return "exact"
    found = f"recall@10 {clusters.recall:.3f} measured with {clusters.queries} text queries"
    if not clusters.lists:
        return f"exact; clusters would read {clusters.scanned:.0%} of the vectors, {found}"
    return f"clusters: {clusters.probed:,} of {clusters.lists:,} read per query, {found}"


def status_record(status: CollectionStatus, collection: Collection) -> dict[str, object]:
    """A JSON record of one collection. Keys are only ever added."""
    found = collection.evaluation
    return {
        "root": json_path(os.fsencode(status.root)),
        "index": json_path(os.fsencode(status.directory)),
        "images": status.images,
        "in_archives": status.archived,
        "failed": [{"path": json_path(path), "reason": why} for path, why in status.failed],
        "to_be_tried_again": _to_be_tried_again(status),
        "exclude": [json_path(os.fsencode(glob)) for glob in status.scope.exclude],
        "max_pixels": status.scope.max_pixels,
        "model": status.spec.label,
        "fingerprint": status.spec.fingerprint,
        "dimensions": status.spec.dim,
        "catalog_bytes": status.catalog_bytes,
        "vector_bytes": status.vector_bytes,
        "not_in_vector_file": status.pending,
        "search": "clusters" if status.clusters and status.clusters.lists else "exact",
        "clusters": status.clusters._asdict() if status.clusters else None,
        "vector_file_damage": status.damage or None,
        "damaged_embeddings": status.left_out,
        "domain": collection.domain.name,
        "domain_fingerprint": collection.domain.fingerprint,
        "tested": collection.tested,
        "evaluated_at": found.made_at if found else None,
        "measures": dict(found.measures) if found else None,
        "calibrated": collection.is_calibrated,
        "created_at": status.created_at,
        "updated_at": status.updated_at,
    }


def models_text(models: Sequence[tuple[str, str, Path | None]]) -> str:
    """The available models, where they are, and how to copy one to another machine."""
    lines = []
    for name, what, path in models:
        where = printable(os.fspath(path)) if path else "not on this machine"
        lines += [f"--model {name}", f"  {what}", f"  {where}", ""]
    return "\n".join(lines) + BRING_A_MODEL


BRING_A_MODEL = """\
Also: any open_clip architecture with published weights (--model NAME --pretrained TAG;
clipsearch models --all lists them), a checkpoint file (--model NAME --pretrained FILE), or a
folder in the Hugging Face Hub's layout (--model FOLDER).

To bring the default model to a machine without a network, run this on one that has it:
  hf download laion/CLIP-ViT-B-16-laion2B-s34B-b88K open_clip_config.json \\
    open_clip_model.safetensors --local-dir vit-b-16
Then copy the folder vit-b-16 over, and index with it:
  clipsearch index PHOTOS --model ./vit-b-16
An index keeps the model that it was made with; add --rebuild to change it."""
