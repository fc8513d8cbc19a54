"""Hits and reports as text: for a terminal, for a pipe, for a program.

Writes bytes where a path is printed: a path is bytes, and whoever reads it from a pipe wants the
very bytes that open the file.
"""

import os
import string
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from clipsearch.cli.render.json_lines import json_line, json_path
from clipsearch.domain.gate import GateErrors
from clipsearch.domain.intervals import Estimate
from clipsearch.domain.taxonomy import Domain
from clipsearch.errors import UsageError
from clipsearch.paths import shown_path
from clipsearch.records import ClusterSearch, CollectionStatus, Hit, IndexSummary
from clipsearch.storage.collection import Collection, tested_line
from clipsearch.text import percent, printable, rounded, size_text

if TYPE_CHECKING:
    from clipsearch.indexing.verify import Problem

Show = Callable[[Hit], bytes]
"""A hit's path as it is to be printed."""

Write = Callable[[Sequence[Hit], str, BinaryIO], None]
"""Writes ranked hits, found by a model with this label, to a stream."""


def write_paths(show: Show, end: bytes) -> Write:
    """Paths alone, each ended by ``end``: NUL is the only byte that no path contains."""

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for hit in hits:
            stream.write(show(hit) + end)

    return write


def write_json_lines(show: Show) -> Write:
    """One JSON object a line. Keys are only ever added."""

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for rank, hit in enumerate(hits, start=1):
            stream.write(json_line(hit_record(rank, hit, model, show)))
            stream.flush()

    return write


def hit_record(rank: int, hit: Hit, model: str, show: Show) -> dict[str, object]:
    """A hit for programs. Keys are only ever added."""
    paths = {"path": json_path(show(hit)), "root": json_path(os.fsencode(hit.root))}
    return _facts(rank, hit, model) | paths


def write_template(template: str, show: Show, end: bytes) -> Write:
    """A line a hit by a template such as ``{score:.3f} {path}``. Raises UsageError.

    The fields are the keys of the JSON lines; what is not known is empty. A backslash and t, n or
    0 stand for a tab, a newline and NUL.
    """
    formatter = _Fields()
    text = template.replace(r"\t", "\t").replace(r"\n", "\n").replace(r"\0", "\0")
    nothing = Hit(1, b"path", Path("root"), 0.5, 1, 1, "2024-05-31", 0.5, 0.5, "domain")
    nothing = replace(nothing, camera="camera", latitude=0.5, longitude=0.5)

    def line(rank: int, hit: Hit, model: str) -> bytes:
        paths = {"path": os.fsdecode(show(hit)), "root": os.fsdecode(hit.root)}
        return os.fsencode(formatter.vformat(text, (), _facts(rank, hit, model) | paths)) + end

    try:
        line(1, nothing, "model")
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
        names = ", ".join(_facts(1, nothing, "model"))
        raise UsageError(
            f"'{template}' is no template: {error.args[0] if error.args else 'it is too wide'}",
            hint=f"For example {{score:.3f}} {{path}}. Fields: {names}.",
        ) from error

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for rank, hit in enumerate(hits, start=1):
            stream.write(line(rank, hit, model))

    return write


class _Fields(string.Formatter):
    """``str.format`` for plain names alone: no attributes, no items, no positions."""

    def get_field(self, name: str, args: Sequence[Any], fields: Mapping[str, Any]) -> Any:
        if name not in fields:
            raise KeyError(f"there is no field {{{name}}}")
        return fields[name], name

    def format_field(self, value: Any, spec: str) -> str:
        return "" if value is None else format(value, spec)


def _facts(rank: int, hit: Hit, model: str) -> dict[str, Any]:
    """All that is known of a hit; the paths' places are kept for whoever writes them."""
    return {
        "rank": rank,
        "score": round(hit.score, 6),
        "path": None,
        "root": None,
        "id": hit.id,
        "width": hit.width,
        "height": hit.height,
        "taken_at": hit.taken_at,
        "model": model,
        "false_alarm": rounded(hit.false_alarm),
        "precision": rounded(hit.precision),
        "domain": hit.domain,
        "tested": hit.tested,
        "collapsed": hit.collapsed,
        "camera": hit.camera,
        "latitude": hit.latitude,
        "longitude": hit.longitude,
    }


def write_table(show: Show) -> Write:
    """A table for people, on standard output."""

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        _print_table(hits, model, show)

    return write


def _print_table(hits: Sequence[Hit], model: str, show: Show) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", style="dim")
    table.add_column("score", justify="right", style="cyan")
    table.add_column("false alarm", justify="right", style="dim")
    known = any(hit.precision is not None for hit in hits)
    if known:
        table.add_column("right", justify="right", style="green")
    table.add_column("size", justify="right", style="dim")
    folded = any(hit.collapsed for hit in hits)
    if folded:
        table.add_column("alike", justify="right", style="dim")
    table.add_column("path", overflow="fold")
    for rank, hit in enumerate(hits, start=1):
        path = Text(printable(os.fsdecode(show(hit))))
        sure = [percent(hit.precision)] if known else []
        more = [f"+{hit.collapsed}" if hit.collapsed else ""] if folded else []
        facts = [percent(hit.false_alarm), *sure, f"{hit.width} x {hit.height}", *more]
        table.add_row(str(rank), f"{hit.score:.3f}", *facts, path)
    screen = console(sys.stdout)
    screen.print(table)
    screen.print(f"ranked by {printable(model)}", style="dim")


def no_match_line(rejected: Hit | None, *, filtered: bool = False) -> str:
    """That nothing matches, and how near the best picture came, if there was one to look at."""
    if filtered and not rejected:
        return "no match: no indexed picture passes the filters"
    if not rejected or rejected.false_alarm is None:
        return "no match"
    return (
        f"no match: {percent(rejected.false_alarm)} of unrelated queries reach the score of the "
        f"best picture, {printable(os.fsdecode(shown_path(rejected)))} (--all prints it)"
    )


def console(stream: TextIO) -> Any:
    """A rich console that never guesses at markup in file names."""
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False)


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
    counts = [
        f"{summary.added} added",
        f"{summary.changed} changed",
        f"{summary.moved} moved",
        f"{summary.removed} removed",
        f"{summary.unchanged} unchanged",
        f"{len(summary.failed)} failed",
    ]
    text = f"{printable(root)}: {', '.join(counts)}"
    if summary.still_failed:
        text += f" ({summary.still_failed} failed before and have not changed)"
    if summary.links:
        text += f", {summary.links} links not followed"
    if summary.looked_at:
        text += f"; camera and place read of {summary.looked_at}"
    if summary.embedded:
        text += f"; {summary.embedded} embedded in {summary.seconds:.1f} s"
    return [*lines, text]


def status_text(status: CollectionStatus, collection: Collection, model_here: str) -> str:
    """One collection for people."""
    spec = status.spec
    lines = [
        printable(os.fspath(status.root)),
        f"  images   {status.images}",
        f"  failed   {len(status.failed)}",
        *(
            f"           {printable(os.fsdecode(path))}: {printable(why)}"
            for path, why in status.failed
        ),
        f"  model    {printable(spec.label)} ({spec.dim} dimensions, {model_here})",
        f"  domain   {printable(collection.domain.name)} "
        f"({len(collection.domain.classes)} classes)",
        f"  answers  {tested_line(collection)}",
        f"  index    {printable(os.fspath(status.directory))}",
        f"  sizes    catalogue {size_text(status.catalog_bytes)}, "
        f"vectors {size_text(status.vector_bytes)}",
        f"  search   {_search_text(status.clusters)}",
        f"  created  {status.created_at}",
        f"  updated  {status.updated_at}",
    ]
    return "\n".join(lines)


def _search_text(clusters: ClusterSearch | None) -> str:
    if clusters is None:
        return "exact"
    found = f"recall@10 {clusters.recall:.3f} measured with {clusters.queries} text queries"
    if not clusters.lists:
        return f"exact; clusters would read {clusters.scanned:.0%} of the vectors, {found}"
    return f"clusters: {clusters.probed:,} of {clusters.lists:,} read per query, {found}"


def status_record(status: CollectionStatus, collection: Collection) -> dict[str, object]:
    """One collection for programs. Keys are only ever added."""
    found = collection.evaluation
    return {
        "root": json_path(os.fsencode(status.root)),
        "index": json_path(os.fsencode(status.directory)),
        "images": status.images,
        "failed": [{"path": json_path(path), "reason": why} for path, why in status.failed],
        "model": status.spec.label,
        "fingerprint": status.spec.fingerprint,
        "dimensions": status.spec.dim,
        "catalog_bytes": status.catalog_bytes,
        "vector_bytes": status.vector_bytes,
        "not_in_vector_file": status.pending,
        "search": "clusters" if status.clusters and status.clusters.lists else "exact",
        "clusters": status.clusters._asdict() if status.clusters else None,
        "domain": collection.domain.name,
        "domain_fingerprint": collection.domain.fingerprint,
        "tested": collection.tested,
        "evaluated_at": found.made_at if found else None,
        "measures": dict(found.measures) if found else None,
        "calibrated": collection.false_alarms("text") is not None,
        "created_at": status.created_at,
        "updated_at": status.updated_at,
    }


def domain_text(domain: Domain) -> str:
    """A domain for people: a class a line, with its synonyms."""
    lines = [f"{domain.name}: {domain.description}", ""]
    for cls in domain.classes:
        synonyms = f" ({', '.join(cls.synonyms)})" if cls.synonyms else ""
        lines.append(f"  {cls.name}{synonyms}")
    marks = ", ".join(f"{name} {mark:g}" for name, mark in domain.pass_marks.items())
    lines += [
        "",
        f"{len(domain.classes)} classes, {len(domain.templates)} templates, "
        f"{len(domain.in_domain)} in-domain and {len(domain.out_of_domain)} out-of-domain examples",
        f"pass marks: {marks}",
        f"fingerprint: {domain.fingerprint}",
    ]
    return "\n".join(printable(line) for line in lines)


def gate_text(domain: Domain, model: str, errors: GateErrors) -> str:
    """A domain's gate for people: how often it errs."""
    return "\n".join(
        [
            f"{printable(domain.name)}: {len(domain.classes)} classes; the file is right",
            f"  model     {printable(model)}",
            f"  refused   {estimate_text(errors.refused)} of the in-domain examples "
            f"({errors.settled_by_words} of {errors.in_domain} name a class)",
            f"  let in    {estimate_text(errors.admitted)} of the out-of-domain examples",
            "  (cross-validated: each example judged by what was found without it)",
        ]
    )


def gate_record(domain: Domain, model: str, errors: GateErrors) -> dict[str, object]:
    """A domain's gate for programs. Keys are only ever added."""
    return {
        "domain": domain.name,
        "fingerprint": domain.fingerprint,
        "classes": len(domain.classes),
        "model": model,
        **asdict(errors),
    }


def estimate_text(estimate: Estimate | None) -> str:
    """A measured share with its 95 % interval: 1.5 % (0.6 to 3.7)."""
    if estimate is None:
        return "nothing"
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def problem_text(problem: "Problem") -> str:
    """Something that is wrong with an index, in a line."""
    where = f"{printable(os.fsdecode(problem.path))}: " if problem.path is not None else ""
    return f"{problem.kind}: {where}{printable(problem.text)}"


def problem_record(problem: "Problem") -> dict[str, object]:
    """Something that is wrong with an index, for programs. Keys are only ever added."""
    path = None if problem.path is None else json_path(problem.path)
    return {"kind": problem.kind, "path": path, "problem": problem.text}


def models_text(models: Sequence[tuple[str, str, Path | None]]) -> str:
    """The models that can be used, where they are, and how to bring one along."""
    lines = []
    for name, what, path in models:
        where = printable(os.fspath(path)) if path else "not on this machine"
        lines += [f"--model {name}", f"  {what}", f"  {where}", ""]
    return "\n".join(lines) + BRING_A_MODEL


BRING_A_MODEL = """\
Also: any architecture of open_clip with its published weights (--model NAME --pretrained TAG;
clipsearch models --all lists them), a checkpoint file (--model NAME --pretrained FILE), or a
folder in the hub's layout (--model FOLDER).

To bring the default to a machine without a network, on one that has it:
  hf download laion/CLIP-ViT-B-16-laion2B-s34B-b88K open_clip_config.json \\
    open_clip_model.safetensors --local-dir vit-b-16
copy the folder vit-b-16 over, and index with it:
  clipsearch index PHOTOS --model ./vit-b-16
An index keeps the model it was made with; add --rebuild to change it."""


class Pace:
    """How fast something has been going lately, and how much longer it will take."""

    _SECONDS = 30.0
    """What lies further back says nothing of now: the first pictures wait for the decoders."""
    _ENOUGH = 2.0
    """From fewer seconds nothing is foretold."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Note that ``done`` were done at a time in seconds."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._SECONDS:
            self._seen.popleft()

    def rate(self) -> float | None:
        """How many a second; None where it cannot be told yet."""
        if len(self._seen) < 2:
            return None
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        if end - start < self._ENOUGH or after <= before:
            return None
        return (after - before) / (end - start)


def rate_text(rate: float | None) -> str:
    """A rate, with one digit after the point where it is small."""
    if rate is None:
        return ""
    if rate < 0.1:
        return f"{60 * rate:.1f}/min"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def time_left_text(seconds: float) -> str:
    """A time to come, as roughly as it can be known."""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 55:
        return f"about {10 * round(seconds / 10)} s left"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"about {minutes} min left"
    hours, minutes = divmod(10 * round(seconds / 600), 60)
    if hours < 10 and minutes:
        return f"about {hours} h {minutes} min left"
    return f"about {round(seconds / 3600)} h left"


class ProgressBar:
    """Progress on stderr while it is a terminal: what, how many, how fast, how much longer."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._doing = ""
        self._pace = Pace()

    def __call__(self, doing: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done; of a ``total`` of 0 nobody knows how many."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[counted]}"),
                console=console(sys.stderr),
                transient=True,
            )
            self._bar.start()
        if doing != self._doing:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._doing, self._pace = doing, Pace()
            counted = self._counted(done, total)
            self._task = self._bar.add_task(doing, total=total or None, counted=counted)
        self._pace.add(time.monotonic(), done)
        self._bar.update(self._task, completed=done, counted=self._counted(done, total))

    def _counted(self, done: int, total: int) -> str:
        if total <= 1:
            return ""
        rate = self._pace.rate()
        if rate is None or done >= total:
            return f"{done:,}/{total:,}"
        left = time_left_text((total - done) / rate)
        return f"{done:,}/{total:,}, {rate_text(rate)}, {left}"

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
