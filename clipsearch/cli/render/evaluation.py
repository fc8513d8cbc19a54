"""Renders an evaluation as tables, lines and one JSON record."""

from dataclasses import asdict
from typing import Any

from clipsearch.cli.render.curve import curve_record, curve_table
from clipsearch.cli.render.json_lines import json_path
from clipsearch.cli.render.table import Table
from clipsearch.domain.pass_marks import IMAGES, REFUSED, least_images
from clipsearch.evaluation.answers import QUERY
from clipsearch.evaluation.evaluate import Findings
from clipsearch.evaluation.metrics import ClassificationReport
from clipsearch.evaluation.summary import (
    MEASURES,
    PUBLISHED,
    estimates,
    interval,
    mark,
    mistakes,
    precision_text,
    published,
    value,
    worst_answers,
    worst_classes,
)
from clipsearch.paths import absolute
from clipsearch.text import percent

MOST_ROWS = 10
"""Rows in the tables of worst classes and confusions; JSON and HTML have all."""


def evaluation_tables(findings: Findings) -> list[Table]:
    """All measurements as tables."""
    report, beside = findings.report, published(findings)
    columns = ["measure", "value", "95% interval", "of", "pass mark"]
    rows = [
        [MEASURES[name], percent(e.value), interval(e), str(e.n), mark(findings, name)]
        for name, e in estimates(findings).items()
    ]
    gate = findings.gate
    queries = {
        REFUSED: (MEASURES[REFUSED], gate.refused),
        "": ("out-of-domain queries accepted", gate.admitted),
    }
    rows += [
        [label, percent(e.value), interval(e), str(e.n), mark(findings, name)]
        for name, (label, e) in queries.items()
        if e is not None
    ]
    rows.append([MEASURES[IMAGES], str(report.images), "", "", mark(findings, IMAGES)])
    if beside:
        columns.append("published, on other images")
        by_label = {MEASURES[name]: text for name, text in beside.items()}
        rows = [[*row, by_label.get(row[0], "")] for row in rows]
    left = (0, len(columns) - 1) if beside else (0,)
    last = (5, 3, 2) if beside else (3, 2)
    tables = [Table("", tuple(columns), [tuple(row) for row in rows], left, gives_way=last)]
    tables += _answer_tables(findings)
    if isinstance(report, ClassificationReport):
        tables += _class_tables(report)
    if findings.curve:
        tables.append(curve_table(findings.curve))
    return tables


def _answer_tables(findings: Findings) -> list[Table]:
    """The quality of answers to searches for the classes by name."""
    if findings.answers is None:
        return []
    rows = [
        (MEASURES[name], percent(e.value), interval(e), str(e.n), mark(findings, name))
        for name, e in findings.answers.estimates().items()
    ]
    title = f'Answers to "{QUERY.format("CLASS")}" if only the labeled images were searched'
    columns = ("measure", "value", "95% interval", "of", "pass mark")
    tables = [Table(title, columns, rows, gives_way=(3, 2))]
    worst = worst_answers(findings)
    lists = [
        (
            one.name,
            *(str(one.images), str(one.shown), str(one.right)),
            *(percent(one.f1), percent(one.best_f1)),
        )
        for one in worst[:MOST_ROWS]
    ]
    if lists:
        title = f"The worst lists{_of(len(lists), len(worst), 'that are not perfect')}"
        heads = ("class", "images", "shown", "correct", "F1", "F1 of the best cut")
        tables.append(Table(title, heads, lists, gives_way=(5, 3)))
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
        columns = ("class", "images", "recall", "95% interval", "precision", "average precision")
        title = f"The worst classes{_of(len(rows), len(worst), 'with missed images')}"
        tables.append(Table(title, columns, rows, gives_way=(3, 5)))
    if confusions:
        pairs = [(c.actual, c.predicted, str(c.count)) for c in confusions[:MOST_ROWS]]
        title = f"Confusions{_of(len(pairs), len(confusions), 'pairs')}"
        tables.append(Table(title, ("class", "classified as", "images"), pairs, left=(0, 1)))
    return tables


def _of(shown: int, all: int, what: str) -> str:
    return f" ({shown} of {all} {what}; --json and --html have all)" if shown < all else ""


def evaluation_lines(findings: Findings) -> list[str]:
    """The notes, then the verdict."""
    lines = [precision_text(findings.evaluation.precision)]
    lines += [findings.curve.said] if findings.curve else []
    lines += [f"note: {note}" for note in findings.report.notes]
    if findings.skipped:
        lines.append(
            f"note: {len(findings.skipped)} images could not be decoded and are not counted"
        )
    missed = findings.evaluation.shortfalls
    if findings.tested == "untested":
        return [
            *lines,
            f"not kept: {findings.evaluation.images} images are too few for a verdict; the "
            f"domain {findings.domain.name} requires {least_images(findings.domain.pass_marks)}",
        ]
    if not missed:
        return [*lines, f"tested: all pass marks of the domain {findings.domain.name} are met"]
    return [
        *lines,
        f"failed: {len(missed)} of {len(findings.domain.pass_marks)} pass marks of the domain "
        f"{findings.domain.name} are not met",
        *(f"  {shortfall}" for shortfall in missed),
    ]


def evaluation_record(findings: Findings) -> dict[str, Any]:
    """A JSON record of an evaluation. Keys are only ever added."""
    found = findings.evaluation
    gate = asdict(findings.gate)
    root = findings.test_set.root
    return {
        "tested": findings.tested,
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
        "report": dict(found.report),
        "gate": gate,
        "precision": found.precision and asdict(found.precision),
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
        "curve": findings.curve and curve_record(findings.curve),
        "published": PUBLISHED.get(findings.model.label, {}),
    }
