"""Renders a benchmark as a table, lines and one JSON record."""

import os
from dataclasses import asdict
from typing import Any

from clipsearch.cli.render.json_lines import json_path
from clipsearch.cli.render.table import Table
from clipsearch.evaluation.benchmark import Benchmarked
from clipsearch.evaluation.metrics import to_data
from clipsearch.evaluation.summary import interval
from clipsearch.paths import absolute
from clipsearch.text import percent


def benchmark_title(found: Benchmarked) -> str:
    """What was measured, and on what."""
    about = found.benchmark
    classes = f" of {len(about.classes)} classes" if about.classes else ""
    return (
        f"{about.folder}: {found.report.images} images{classes}, for {found.model.label} "
        f"(CLIP_benchmark, {about.kind})"
    )


def benchmark_table(found: Benchmarked) -> Table:
    """The figures as a table."""
    published = found.published()
    rows = [
        (name, percent(e.value), interval(e), str(e.n), published.get(name, ""))
        for name, e in found.estimates().items()
        if e is not None
    ]
    columns = ("measure", "value", "95% interval", "of", "published")
    if published:
        return Table("", columns, rows, left=(0, 4))
    return Table("", columns[:4], [row[:4] for row in rows])


def benchmark_lines(found: Benchmarked) -> list[str]:
    """The notes."""
    return [f"note: {note}" for note in found.notes()]


def benchmark_record(found: Benchmarked) -> dict[str, Any]:
    """A JSON record of a benchmark. Keys are only ever added."""
    about, probe = found.benchmark, found.probe
    root = os.fsencode(about.folder)
    return {
        "source": str(about.folder),
        "kind": about.kind,
        "model": found.model.label,
        "fingerprints": {"model": found.model.fingerprint},
        "metrics": found.figures(),
        "intervals": {name: e and asdict(e) for name, e in found.estimates().items()},
        "report": to_data(found.report),
        "linear_probe": probe
        and {
            "images": probe.images,
            "l2": probe.l2,
            "shared": probe.shared,
            "report": to_data(probe.report),
        },
        "published": dict(found.published()),
        "notes": found.notes(),
        "skipped": [
            {"path": json_path(absolute(root, path)), "reason": reason}
            for path, reason in found.skipped
        ],
    }
