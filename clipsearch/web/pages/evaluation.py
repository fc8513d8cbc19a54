"""An evaluation as one self-contained HTML page.

The page works when opened from disk or passed on: it contains its style and small JPEGs, has no
script, and its Content-Security-Policy prevents the browser from fetching anything. Every text from
a file name, a label, a caption or a domain is escaped.
"""

from collections.abc import Sequence
from typing import Any

from clipsearch.domain.intervals import Estimate
from clipsearch.domain.pass_marks import REFUSED, least_images
from clipsearch.evaluation import summary
from clipsearch.evaluation.answers import QUERY
from clipsearch.evaluation.evaluate import Findings
from clipsearch.evaluation.labelled import LabelledImages
from clipsearch.evaluation.metrics import ClassificationReport, ClassResult, MultiLabelReport
from clipsearch.evaluation.summary import interval, value
from clipsearch.images.thumbnails import thumbnails
from clipsearch.text import percent, text_path
from clipsearch.web.pages.curve import drawing
from clipsearch.web.pages.document import data_url, document

_PICTURES = 200
"""Misclassified images on one page, about 6 kB each."""

_THUMBNAIL = 168
_WORST = 15
_PAIRS = 15


def page(findings: Findings) -> str:
    """The whole page as text. Reads the misclassified images again for their thumbnails."""
    found = findings.evaluation
    report = findings.report
    labelled = report if isinstance(report, ClassificationReport) else None
    verdict = findings.tested.capitalize()
    published = summary.published(findings)
    precision = summary.precision_text(found.precision)
    return document(
        "evaluation.html",
        f"{verdict}: {found.source}",
        verdict=verdict,
        tested=findings.tested,
        least=least_images(findings.domain.pass_marks),
        missed=found.shortfalls,
        facts={
            "Test set": f"{found.source} ({report.images} images)",
            "Model": findings.model.label,
            "Domain": f"{findings.domain.name} ({len(findings.domain.classes)} classes)",
            "Made": found.made_at.replace("T", " ").replace("+00:00", " UTC"),
        },
        published=published,
        measures=[
            _measure(findings, name, summary.MEASURES[name], estimate, published.get(name, ""))
            for name, estimate in summary.estimates(findings).items()
        ],
        answers=_answers(findings) if findings.answers else None,
        gate=_gate(findings),
        precision=precision[0].upper() + precision[1:],
        notes=report.notes,
        skipped=[(text_path(path), reason) for path, reason in findings.skipped],
        curve=drawing(findings.curve) if findings.curve else None,
        classes=_classes(labelled) if labelled else None,
        most_worst=_WORST,
        confusions=_confusions(findings, labelled) if labelled and labelled.confusions else None,
        mistakes=None if isinstance(report, MultiLabelReport) else _mistakes(findings),
        fingerprints={"model": found.model, "domain": found.domain, "test set": found.test_set},
        percent=percent,
        interval=interval,
        value=value,
    )


def _measure(
    findings: Findings, name: str, label: str, estimate: Estimate, beside: str = ""
) -> dict[str, Any]:
    return {
        "label": label,
        "estimate": estimate,
        "mark": findings.domain.pass_marks.get(name),
        "missed": name in {shortfall.measure for shortfall in findings.evaluation.shortfalls},
        "said": summary.mark(findings, name),
        "beside": beside,
    }


def _answers(findings: Findings) -> dict[str, Any]:
    """What users get when they search for the classes by name."""
    assert findings.answers is not None
    per_class = findings.answers.per_class
    return {
        "query": QUERY.format("CLASS"),
        "measures": [
            _measure(findings, name, summary.MEASURES[name], estimate)
            for name, estimate in findings.answers.estimates().items()
        ],
        "worst": summary.worst_answers(findings),
        "absent": [one for one in per_class if one.shown and not one.images],
    }


def _gate(findings: Findings) -> list[dict[str, Any]]:
    """How often the gate is wrong."""
    gate = findings.gate
    return [
        _measure(findings, name, label, estimate)
        for name, label, estimate in (
            (REFUSED, summary.MEASURES[REFUSED], gate.refused),
            ("", "of these, queries that do not name a class", gate.refused_without_words),
            ("", "out-of-domain queries accepted", gate.admitted),
        )
        if estimate is not None
    ]


def _classes(report: ClassificationReport) -> dict[str, Any]:
    seen = [result for result in report.per_class if result.images or result.predicted]
    return {
        "seen": seen,
        "worst": summary.worst_classes(report),
        "with_pictures": sum(result.images > 0 for result in seen),
    }


def _confusions(findings: Findings, report: ClassificationReport) -> dict[str, Any]:
    confused = {name for pair in report.confusions for name in (pair.actual, pair.predicted)}
    occurring = {result.name for result in report.per_class if result.images or result.predicted}
    return {
        "pairs": report.confusions[:_PAIRS],
        "more": len(report.confusions) - _PAIRS,
        "matrix": _matrix(findings, report, confused),
        "whole": _matrix(findings, report, occurring) if occurring > confused else None,
        "occurring": len(occurring),
    }


def _matrix(
    findings: Findings, report: ClassificationReport, shown: set[str]
) -> dict[str, list[Any]]:
    """Rows for the classes with images, columns for the predicted classes.

    Both are in the order of the domain, where related classes are adjacent. A run of empty cells is
    one wide cell, so that a page with hundreds of classes stays small.
    """
    test_set = findings.test_set
    assert isinstance(test_set, LabelledImages)
    results = report.per_class
    rows = [c for c, result in enumerate(results) if result.name in shown and result.images]
    columns = [c for c, result in enumerate(results) if result.name in shown and result.predicted]
    counts: dict[int, dict[int, int]] = {row: {} for row in rows}
    for actual, given in zip(test_set.classes, report.predicted, strict=True):
        if actual in counts:
            counts[actual][given] = counts[actual].get(given, 0) + 1
    return {
        "columns": [results[column].name for column in columns],
        "rows": [
            {"name": results[row].name, "cells": _cells(results, row, columns, counts[row])}
            for row in rows
        ],
    }


def _cells(
    results: Sequence[ClassResult], row: int, columns: Sequence[int], counts: dict[int, int]
) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = []
    for column in columns:
        if count := counts.get(column, 0):
            kind = "right" if row == column else "wrong"
            share = count / results[row].images
            given = results[column].name
            cells.append({"empty": 0, "kind": kind, "share": share, "given": given, "count": count})
        elif cells and cells[-1]["empty"]:
            cells[-1]["empty"] += 1
        else:
            cells.append({"empty": 1})
    return cells


def _mistakes(findings: Findings) -> dict[str, Any]:
    mistakes = summary.mistakes(findings)
    shown = mistakes[:_PICTURES]
    paths = list(dict.fromkeys(mistake.path for mistake in shown))
    images = thumbnails(findings.test_set.root, paths, _THUMBNAIL) if paths else {}
    words = (
        {
            "what": "misclassified images",
            "how": "The label of each image, and the class that was predicted.",
            "about": "label",
            "became": "predicted",
        }
        if isinstance(findings.test_set, LabelledImages)
        else {
            "what": "captions whose image was missed",
            "how": "The rank of the image for each caption.",
            "about": "caption",
            "became": "image at",
        }
    )
    return words | {
        "count": len(mistakes),
        "more": len(mistakes) - len(shown),
        "shown": [
            {
                "path": text_path(mistake.path),
                "picture": data_url(images[mistake.path]) if mistake.path in images else None,
                "actual": mistake.actual,
                "given": mistake.given,
            }
            for mistake in shown
        ],
    }
