"""Evaluations, classifications and probes as tables, lines and records.

A table is drawn by rich on a terminal and set in plain aligned columns for a pipe.
"""

import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from clipsearch.cli.render.json_lines import json_line, json_path
from clipsearch.cli.render.output import console
from clipsearch.domain.intervals import proportion
from clipsearch.domain.taxonomy import IMAGES, REFUSED
from clipsearch.evaluation.classify import Classified
from clipsearch.evaluation.evaluate import Findings
from clipsearch.evaluation.metrics import ClassificationReport
from clipsearch.evaluation.probes import KeptProbe
from clipsearch.evaluation.summary import (
    MEASURES,
    PUBLISHED,
    estimates,
    interval,
    mark,
    mistakes,
    percent,
    precision_text,
    published,
    value,
    worst_classes,
)
from clipsearch.indexing.diagnosis import Check
from clipsearch.paths import absolute, shown
from clipsearch.text import printable, text_path

MOST_ROWS = 10
"""Of the worst classes and of the confusions, in a table; the record and the page have all."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title; the columns in ``left`` are words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: tuple[int, ...] = (0,)


def show(table: Table) -> None:
    """Print a table for whoever reads standard output: a person, or a pipe."""
    if not sys.stdout.isatty():
        sys.stdout.write(plain(table))
        return
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=Text(printable(table.title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for n, name in enumerate(table.columns):
        words = n in table.left
        drawn.add_column(name, justify="left" if words else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    console(sys.stdout).print(drawn)


def plain(table: Table) -> str:
    """A table in aligned columns."""
    rows = [table.columns, *(tuple(printable(cell) for cell in row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if n in table.left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*([printable(table.title)] if table.title else []), *lines, "", ""])


# -- evaluations -------------------------------------------------------------------------------


def evaluation_tables(findings: Findings) -> list[Table]:
    """What was measured, for people."""
    report, beside = findings.evaluation.report, published(findings)
    columns = ["measure", "value", "95 % interval", "of", "pass mark"]
    rows = [
        [MEASURES[name], percent(e.value), interval(e), str(e.n), mark(findings, name)]
        for name, e in estimates(findings).items()
    ]
    gate = findings.gate
    queries = {
        REFUSED: (MEASURES[REFUSED], gate.refused),
        "": ("out-of-domain queries let in", gate.admitted),
    }
    rows += [
        [label, percent(e.value), interval(e), str(e.n), mark(findings, name)]
        for name, (label, e) in queries.items()
        if e is not None
    ]
    rows.append([MEASURES[IMAGES], str(report.images), "", "", mark(findings, IMAGES)])
    if beside:
        columns.append("published, on other pictures")
        by_label = {MEASURES[name]: text for name, text in beside.items()}
        rows = [[*row, by_label.get(row[0], "")] for row in rows]
    left = (0, len(columns) - 1) if beside else (0,)
    tables = [Table("", tuple(columns), [tuple(row) for row in rows], left)]
    if isinstance(report, ClassificationReport):
        tables += _class_tables(report)
    return tables


def _class_tables(report: ClassificationReport) -> list[Table]:
    worst, confusions = worst_classes(report), report.confusions
    tables = []
    if worst:
        rows = [
            (
                result.name,
                str(result.images),
                percent(value(result.recall)),
                interval(result.recall),
                percent(value(result.precision)),
                percent(result.average_precision),
            )
            for result in worst[:MOST_ROWS]
        ]
        columns = ("class", "pictures", "recall", "95 % interval", "precision", "average precision")
        title = f"The worst classes{_of(len(rows), len(worst), 'that lost pictures')}"
        tables.append(Table(title, columns, rows))
    if confusions:
        pairs = [(c.actual, c.predicted, str(c.count)) for c in confusions[:MOST_ROWS]]
        title = f"Confusions{_of(len(pairs), len(confusions), 'pairs')}"
        tables.append(Table(title, ("class", "given to", "pictures"), pairs, left=(0, 1)))
    return tables


def _of(shown: int, all: int, what: str) -> str:
    return f" ({shown} of {all} {what}; --json and --html have all)" if shown < all else ""


def evaluation_lines(findings: Findings) -> list[str]:
    """The notes, and the verdict last."""
    lines = [precision_text(findings.evaluation.precision)]
    lines += [f"note: {note}" for note in findings.evaluation.report.notes]
    if findings.skipped:
        lines.append(
            f"note: {len(findings.skipped)} pictures could not be decoded and do not count"
        )
    missed = findings.evaluation.shortfalls
    if not missed:
        return [*lines, f"tested: all pass marks of the domain {findings.domain.name} are met"]
    return [
        *lines,
        f"failed: {len(missed)} of {len(findings.domain.pass_marks)} pass marks of the domain "
        f"{findings.domain.name} are not met",
        *(f"  {shortfall}" for shortfall in missed),
    ]


def evaluation_record(findings: Findings) -> dict[str, Any]:
    """An evaluation for programs. Keys are only ever added."""
    found = findings.evaluation
    record = json.loads(found.to_json())
    gate = asdict(findings.gate)
    root = findings.test_set.root
    return {
        "tested": "failed" if found.shortfalls else "tested",
        "source": found.source,
        "made_at": found.made_at,
        "model": findings.model.label,
        "domain": findings.domain.name,
        "fingerprints": {
            "model": found.model,
            "domain": found.domain,
            "test_set": found.test_set,
        },
        "pass_marks": dict(findings.domain.pass_marks),
        "shortfalls": [asdict(missed) for missed in found.shortfalls],
        "measures": dict(found.measures),
        "report": record["report"],
        "gate": gate,
        "precision": record["precision"],
        "logit_scale": found.logit_scale,
        "wrong": [
            {
                "path": json_path(absolute(root, mistake.path)),
                "actual": mistake.actual,
                "given": mistake.given,
            }
            for mistake in mistakes(findings)
        ],
        "skipped": [
            {"path": json_path(absolute(root, path)), "reason": reason}
            for path, reason in findings.skipped
        ],
        "reused": findings.reused,
        "published": PUBLISHED.get(findings.model.label, {}),
    }


# -- probes ------------------------------------------------------------------------------------


def probe_lines(kept: KeptProbe) -> list[str]:
    """A probe for people: what it was trained on, and what it is worth."""
    classes = ", ".join(
        f"{name} ({count})" for name, count in zip(kept.probe.classes, kept.images, strict=True)
    )
    figures = [
        (f"  {name:<10}{percent(e.value):>8}   95 % interval {interval(e)}, of {e.n} pictures")
        for name, e in (("held out", kept.held_out), ("zero-shot", kept.zero_shot))
    ]
    return [
        f"@{kept.name}",
        f"  classes   {printable(classes)}",
        *figures,
        f"  always the most frequent class {percent(kept.most_frequent)}",
        f"  penalty   {kept.probe.l2:.3g}",
        f"  trained   {kept.made_at}, on {printable(kept.source)}",
    ]


def probe_record(kept: KeptProbe) -> dict[str, Any]:
    """A probe for programs. Keys are only ever added."""
    return {
        "name": kept.name,
        "classes": dict(zip(kept.probe.classes, kept.images, strict=True)),
        "held_out": asdict(kept.held_out),
        "zero_shot": asdict(kept.zero_shot),
        "most_frequent": kept.most_frequent,
        "l2": kept.probe.l2,
        "model": kept.model,
        "source": kept.source,
        "made_at": kept.made_at,
    }


# -- classified pictures -------------------------------------------------------------------------


def classified_lines(found: Iterable[Classified], stream: BinaryIO) -> None:
    """``path TAB class TAB probability`` lines."""
    for one in found:
        for ranked in one.ranking:
            said = f"\t{printable(ranked.name)}\t{ranked.probability:.4f}\n"
            stream.write(shown(one.picture.path) + said.encode())


def classified_csv(found: Iterable[Classified], stream: BinaryIO) -> None:
    """A CSV file with a header; paths in the file system's own bytes."""
    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="", write_through=True)
    rows = csv.writer(text)
    rows.writerow(["path", "rank", "class", "probability"])
    for one in found:
        for n, ranked in enumerate(one.ranking, start=1):
            path = os.fsdecode(shown(one.picture.path))
            rows.writerow([path, n, ranked.name, f"{ranked.probability:.6f}"])
    text.detach()


def classified_json(found: Iterable[Classified], model: str, by: str, stream: BinaryIO) -> None:
    """One JSON object a picture and a line. Keys are only ever added."""
    for one in found:
        classes = [
            {
                "class": ranked.name,
                "probability": round(ranked.probability, 6),
                "similarity": round(ranked.similarity, 6),
            }
            for ranked in one.ranking
        ]
        path = json_path(shown(one.picture.path))
        stream.write(json_line({"path": path, "classes": classes, "by": by, "model": model}))
        stream.flush()


def classified_table(found: Iterable[Classified]) -> Table:
    """A table for people."""
    rows = [
        (
            "" if n else text_path(shown(one.picture.path)),
            ranked.name,
            percent(ranked.probability),
        )
        for one in found
        for n, ranked in enumerate(one.ranking)
    ]
    return Table("", ("path", "class", "probability"), rows, left=(0, 1))


@dataclass(frozen=True, slots=True)
class FolderResult:
    """What the pictures of one folder were given to."""

    folder: str
    name: str | None
    """The class of that name; None if there is none."""
    given: Counter[str]

    @property
    def right(self) -> int:
        """How many were given to the class that the folder is named after."""
        return self.given[self.name] if self.name else 0


def by_folder(
    found: Iterable[Classified], class_of: Callable[[str], str | None]
) -> list[FolderResult]:
    """Compare the first class of each picture with the name of its folder.

    class_of: the class that a folder is named after, if any.
    """
    given: dict[str, Counter[str]] = {}
    for one in found:
        given.setdefault(one.picture.folder, Counter())[one.ranking[0].name] += 1
    return [FolderResult(name, class_of(name), given[name]) for name in sorted(given)]


def folder_table(results: Sequence[FolderResult]) -> Table:
    """Folders against what their pictures were given to."""
    rows = [
        (
            result.folder,
            str(result.given.total()),
            str(result.right) if result.name else "no such class",
            percent(result.right / result.given.total()) if result.name else "-",
            ", ".join(f"{name} {count}" for name, count in result.given.most_common()),
        )
        for result in results
    ]
    columns = ("folder", "pictures", "right", "accuracy", "given to")
    return Table("", columns, rows, left=(0, 4))


def folder_line(results: Sequence[FolderResult]) -> str:
    """The accuracy over all folders that are named after a class."""
    named = [result for result in results if result.name]
    n = sum(result.given.total() for result in named)
    if not n:
        return "no folder is named after a class"
    total = proportion(sum(result.right for result in named), n)
    return (
        f"accuracy {percent(total.value)} of {n} pictures in {len(named)} folders named after a "
        f"class (95 % interval {interval(total)})"
    )


def folder_record(result: FolderResult) -> dict[str, object]:
    """One folder for programs. Keys are only ever added."""
    return {
        "folder": printable(result.folder),
        "class": result.name,
        "pictures": result.given.total(),
        "right": result.right,
        "given": dict(result.given.most_common()),
    }


def check_lines(check: Check) -> list[str]:
    """One check of ``doctor`` for people."""
    line = f"{check.state:<8} {check.area:<10} {printable(check.text)}"
    return [line, f"{'':8} {printable(check.hint)}"] if check.hint else [line]


def check_record(check: Check) -> dict[str, object]:
    """The same for programs. Keys are only ever added."""
    return asdict(check)
