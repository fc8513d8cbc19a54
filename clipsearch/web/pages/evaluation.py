"""An evaluation as one self-contained HTML page.

It is written to be opened from a disk and to be handed on: the style is inside, the pictures are
small JPEGs inside, there is no script, and a Content-Security-Policy forbids the browser to fetch
anything. Every text that comes from a file name, a label, a caption or a domain goes through
``inert``.
"""

from collections.abc import Iterable, Sequence

from clipsearch.domain.intervals import Estimate
from clipsearch.domain.pass_marks import REFUSED
from clipsearch.evaluation import summary
from clipsearch.evaluation.evaluate import Findings
from clipsearch.evaluation.labelled import LabelledImages
from clipsearch.evaluation.metrics import ClassificationReport, ClassResult
from clipsearch.evaluation.summary import interval, value
from clipsearch.images.thumbnails import thumbnails
from clipsearch.text import percent, text_path
from clipsearch.web.pages.document import data_url, document, inert

_PICTURES = 200
"""Wrong pictures on one page, at some 6 kB each."""

_THUMBNAIL = 168
_WORST = 15
_PAIRS = 15


def page(findings: Findings) -> str:
    """The whole page as text. Reads the wrong pictures once more, for their thumbnails."""
    report = findings.report
    sections = [_measures(findings), _meaning(findings)]
    if isinstance(report, ClassificationReport):
        sections += [_classes(report), _confusions(findings, report)]
    sections.append(_wrong(findings))
    title = f"{_verdict(findings)}: {findings.evaluation.source}"
    body = f"<main>\n{_head(findings)}\n{''.join(sections)}\n{_foot(findings)}\n</main>"
    return document(title, body)


# -- what it is about ----------------------------------------------------------------------------


def _verdict(findings: Findings) -> str:
    return "Failed" if findings.evaluation.shortfalls else "Tested"


def _head(findings: Findings) -> str:
    found = findings.evaluation
    missed = "".join(f"<li>{inert(str(shortfall))}</li>" for shortfall in found.shortfalls)
    said = (
        f"<p>These pass marks of the domain are not met:</p><ul>{missed}</ul>"
        if missed
        else "<p>All pass marks of the domain are met.</p>"
    )
    facts = {
        "Test set": f"{found.source} ({found.images} pictures)",
        "Model": findings.model.label,
        "Domain": f"{findings.domain.name} ({len(findings.domain.classes)} classes)",
        "Made": found.made_at.replace("T", " ").replace("+00:00", " UTC"),
    }
    rows = "".join(f"<div><dt>{k}</dt><dd>{inert(v)}</dd></div>" for k, v in facts.items())
    return f"""<header>
<div class="verdict {"failed" if missed else "tested"}"><h1>{_verdict(findings)}</h1>{said}</div>
<dl>{rows}</dl>
</header>"""


def _measures(findings: Findings) -> str:
    published = summary.published(findings)
    rows = [
        _measure(findings, name, summary.MEASURES[name], estimate, published.get(name, ""))
        for name, estimate in summary.estimates(findings).items()
    ]
    beside = (
        "<p>The figures beside were published for this model on other pictures, and are there for "
        "orientation: they say nothing about these.</p>"
        if published
        else ""
    )
    return f"""<section><h2>Measures</h2>
<p>The bar is what was measured, the line across it the 95&nbsp;% interval, the mark the pass
mark.</p>{beside}
<div class="measures">{"".join(rows)}</div></section>"""


def _measure(findings: Findings, name: str, label: str, estimate: Estimate, beside: str) -> str:
    mark = findings.domain.pass_marks.get(name)
    missed = name in {shortfall.measure for shortfall in findings.evaluation.shortfalls}
    said = summary.mark(findings, name)
    return (
        f'<div class="measure{" missed" if missed else ""}"><span>{inert(label)}</span>'
        f"<b>{percent(estimate.value)}</b>{_bar(estimate, mark)}"
        f"<small>{interval(estimate)}, of {estimate.n}{f'; {said}' if said else ''}"
        f"{f'<br>{inert(beside)}' if beside else ''}</small></div>"
    )


def _bar(estimate: Estimate | None, mark: float | None = None) -> str:
    if estimate is None:
        return '<i class="bar"></i>'
    low, high = 100 * estimate.low, 100 * estimate.high
    line = f'<i class="line" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
    at = "" if mark is None else f'<i class="mark" style="left:{100 * mark:.1f}%"></i>'
    return (
        f'<i class="bar"><i class="value" style="width:{100 * estimate.value:.1f}%"></i>'
        f"{line}{at}</i>"
    )


def _meaning(findings: Findings) -> str:
    """What the gate lets through, and what a score is worth."""
    gate = findings.gate
    rows = [
        _measure(findings, name, label, estimate, "")
        for name, label, estimate in (
            (REFUSED, summary.MEASURES[REFUSED], gate.refused),
            ("", "of these, queries that name no class", gate.refused_without_words),
            ("", "out-of-domain queries let in", gate.admitted),
        )
        if estimate is not None
    ]
    notes = "".join(f"<li>{inert(note)}</li>" for note in findings.report.notes)
    skipped = "".join(
        f"<li>{inert(text_path(path))} could not be decoded and does not count: "
        f"{inert(reason)}</li>"
        for path, reason in findings.skipped
    )
    precision = summary.precision_text(findings.evaluation.precision)
    return f"""<section><h2>Queries and scores</h2>
<p>The gate turns away text queries that have nothing to do with the domain. On the domain&rsquo;s
own examples, each tenth judged without itself:</p>
<div class="measures">{"".join(rows)}</div>
<p>{inert(precision[0].upper() + precision[1:])}.</p>
<ul>{notes}{skipped}</ul></section>"""


def _foot(findings: Findings) -> str:
    found = findings.evaluation
    prints = {"model": found.model, "domain": found.domain, "test set": found.test_set}
    rows = "".join(
        f"<li>{name} <code>{inert(print_)}</code></li>" for name, print_ in prints.items()
    )
    return f"""<footer><p>Written by <code>clipsearch evaluate</code>. The measures are those of
LAION&rsquo;s CLIP_benchmark. They hold for this model, this domain and pictures like these, and for
nothing else:</p><ul>{rows}</ul></footer>"""


# -- classes -------------------------------------------------------------------------------------


def _classes(report: ClassificationReport) -> str:
    worst = summary.worst_classes(report)
    seen = [result for result in report.per_class if result.images or result.predicted]
    first = (
        f"<p>{len(worst)} of {sum(r.images > 0 for r in seen)} classes lost pictures"
        f"{f'; the worst {_WORST}' if len(worst) > _WORST else ''}:</p>"
        f"{_class_table(worst[:_WORST])}"
        if worst
        else "<p>No class lost a picture.</p>"
    )
    return f"""<section><h2>Classes</h2>{first}
<details><summary>All {len(seen)} classes that have a picture or were given one</summary>
{_class_table(seen)}</details></section>"""


def _class_table(results: Sequence[ClassResult]) -> str:
    rows = "".join(
        f"<tr><th>{inert(result.name)}</th><td>{result.images}</td>"
        f"<td>{percent(value(result.recall))}</td><td class=wide>{_bar(result.recall)}</td>"
        f"<td>{result.predicted}</td><td>{percent(value(result.precision))}</td>"
        f"<td>{percent(result.average_precision)}</td></tr>"
        for result in results
    )
    return f"""<div class="scroll"><table class="list"><thead><tr><th>class</th><th>pictures</th>
<th>recall</th><th class=wide></th><th>given to it</th><th>precision</th><th>average precision</th>
</tr></thead><tbody>{rows}</tbody></table></div>"""


def _confusions(findings: Findings, report: ClassificationReport) -> str:
    if not report.confusions:
        return ""
    pairs = "".join(
        f"<li><b>{inert(pair.actual)}</b> given to <b>{inert(pair.predicted)}</b>"
        f"{f' {pair.count} times' if pair.count > 1 else ''}</li>"
        for pair in report.confusions[:_PAIRS]
    )
    more = len(report.confusions) - _PAIRS
    confused = {name for pair in report.confusions for name in (pair.actual, pair.predicted)}
    occurring = {result.name for result in report.per_class if result.images or result.predicted}
    whole = (
        f"<details><summary>All {len(occurring)} classes</summary>"
        f"{_matrix(findings, report, occurring)}</details>"
        if occurring > confused
        else ""
    )
    return f"""<section><h2>Confusions</h2>
<ol class="pairs">{pairs}</ol>{f"<p>And {more} pairs more, below.</p>" if more > 0 else ""}
<h3>Confusion matrix</h3>
<p>A row is what a picture shows, a column what it was given to; only classes that were confused
with another. Point at a number to read its names.</p>
{_matrix(findings, report, confused)}{whole}</section>"""


def _matrix(findings: Findings, report: ClassificationReport, shown: set[str]) -> str:
    """Rows of the classes with pictures, columns of those that were given any.

    Both are in the order of the domain, where kin stand together. A run of empty cells is one
    wide cell, so that a page of hundreds of classes stays small.
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
    head = "".join(
        f'<th title="{inert(results[c].name)}"><span>{inert(results[c].name)}</span></th>'
        for c in columns
    )
    body = "".join(
        f"<tr><th>{inert(results[row].name)}</th>{_cells(results, row, columns, counts[row])}</tr>"
        for row in rows
    )
    return f"""<div class="scroll matrix"><table><thead><tr><td></td>{head}</tr></thead>
<tbody>{body}</tbody></table></div>"""


def _cells(
    results: Sequence[ClassResult], row: int, columns: Iterable[int], counts: dict[int, int]
) -> str:
    cells, empty = [], 0
    for column in columns:
        count = counts.get(column, 0)
        if not count:
            empty += 1
            continue
        cells.append(_gap(empty))
        empty = 0
        said = f"{results[row].name} given to {results[column].name}: {count}"
        share = count / results[row].images
        kind = "right" if row == column else "wrong"
        cells.append(
            f'<td class="{kind}" style="--share:{35 + 65 * share:.0f}%" title="{inert(said)}">'
            f"{count}</td>"
        )
    return "".join([*cells, _gap(empty)])


def _gap(columns: int) -> str:
    return f"<td colspan={columns}></td>" if columns else ""


# -- pictures ------------------------------------------------------------------------------------


def _wrong(findings: Findings) -> str:
    mistakes = summary.mistakes(findings)
    labels = isinstance(findings.test_set, LabelledImages)
    if not mistakes:
        title = "pictures got wrong" if labels else "captions whose picture was missed"
        return f"<section><h2>No {title}</h2></section>"
    shown = mistakes[:_PICTURES]
    paths = list(dict.fromkeys(mistake.path for mistake in shown))
    images = thumbnails(findings.test_set.root, paths, _THUMBNAIL)
    words = ("shows", "given to") if labels else ("caption", "picture in")
    figures = "".join(_figure(mistake, images.get(mistake.path), *words) for mistake in shown)
    more = len(mistakes) - len(shown)
    what, how = (
        ("pictures got wrong", "Each with what it shows, and the class it was given to.")
        if labels
        else ("captions whose picture was missed", "Each with the place that its picture had.")
    )
    return f"""<section><h2>{len(mistakes)} {what}</h2>
<p>{how} As the model sees them: the middle square.{f" {more} more are left out." if more else ""}
</p><div class="pictures">{figures}</div></section>"""


def _figure(mistake: summary.Mistake, thumbnail: bytes | None, about: str, became: str) -> str:
    path = inert(text_path(mistake.path))
    image = '<span class="none">cannot be shown</span>'
    if thumbnail is not None:
        image = f'<img alt="{path}" src="{data_url(thumbnail)}">'
    return (
        f'<figure>{image}<figcaption><span data-word="{about}">{inert(mistake.actual)}</span>'
        f'<b data-word="{became}">{inert(mistake.given)}</b><small>{path}</small></figcaption>'
        "</figure>"
    )
