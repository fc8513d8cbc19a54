"""``clipsearch duplicates``."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, commands, progress, say
from clipsearch.cli.options import files as html_file
from clipsearch.cli.options.filters import FilterOptions
from clipsearch.cli.options.groups import grouped
from clipsearch.cli.options.hits import AbsoluteOption
from clipsearch.cli.render import duplicates as reports
from clipsearch.cli.render.duplicates import ShowPath
from clipsearch.cli.render.table import show as show_table
from clipsearch.cli.searching import opened, tell_left_out
from clipsearch.errors import ExitCode, UsageError
from clipsearch.models.choice import Notify
from clipsearch.models.load import Encoders
from clipsearch.paths import shown
from clipsearch.search.duplicates import find, likeness
from clipsearch.search.duplicates.likeness import Likeness
from clipsearch.storage.known import shared_model

app = commands()


@app.command("duplicates")
@grouped
def duplicates_command(
    *,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="Only images in this folder.", show_default=False),
    ] = None,
    where: FilterOptions,
    copies: Annotated[
        bool, typer.Option("--copies", help="Only files with identical content; fast.")
    ] = False,
    bursts: Annotated[
        bool,
        typer.Option(
            "--bursts",
            help="Also images that are similar only to the model, such as a burst; these are "
            "different images.",
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="X",
            help="Minimum similarity (default: measured on the collection).",
            show_default=False,
        ),
    ] = None,
    all_but_best: Annotated[
        bool,
        typer.Option(
            "--all-but-best",
            help="Print all images of each group except the best (most pixels, then most bytes, "
            "then oldest file).",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per group.")] = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="End each path with NUL.")] = False,
    absolute: AbsoluteOption = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Also write an HTML page with each group side by side.",
            show_default=False,
        ),
    ] = None,
    force: html_file.ForceOption = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing; only set the exit code.")
    ] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Print groups of images that are the same or nearly the same; nothing is removed.

    Prints the paths of each group, the best image first, with an empty line between groups. Every
    image is a copy of the best or nearly one: saved again, smaller, brighter or slightly cropped.
    The model's threshold for this is measured once on the collection. Then the pixels of both
    images are compared, using the first frame of animations; pages that differ in a few words
    look the same. Files that have changed since they were indexed are left out. A file with
    several paths, through mounts or hard links, is not a copy of itself. Exit code 1 if there are
    no groups.

    \b
    Examples:
      clipsearch duplicates
      clipsearch duplicates ~/Pictures/2024 --html groups.html
      clipsearch duplicates --copies
      clipsearch duplicates --json | jq -r '.members[] | select(.keep) | .path'
      clipsearch duplicates --all-but-best -0 | xargs -0 trash-put
    """
    _check(copies, bursts, threshold, all_but_best, json, null)
    if folder is not None:
        if where.under is not None:
            raise UsageError("PATH and --under cannot be combined", hint="Leave out --under.")
        where = replace(where, under=folder)
    measured: list[Likeness] = []
    notify: Notify = (lambda message: None) if quiet else say
    with opened(where, index) as (stores, only), progress() as bar:
        html_file.check(html, stores, force=force)
        model = shared_model(stores).label
        if not quiet:
            tell_left_out(stores, only)
        if copies or sum(store.count(only) for store in stores) < 2:
            found = find.copies(stores, only)
        else:
            if threshold is None or not bursts:
                encoders = Encoders.of(stores[0].spec, device)
                measured = [
                    likeness.known(store, lambda: encoders.both, progress=bar, notify=notify)
                    for store in stores
                    if store.count()
                ]
            found = find.near(
                stores,
                only,
                threshold or max(one.similarity for one in measured),
                None if bursts else max(one.agreement for one in measured),
                bar,
            )
    show = _shown(absolute)
    notes = reports.notes(found, [] if threshold else measured, looked=not bursts)
    if html is not None:  # before printing, since the reader of stdout may stop early
        from clipsearch.web.pages import duplicates as duplicates_page

        html_file.write(html, duplicates_page.page(found.groups, notes), force=force)
    if not quiet:
        for line in [reports.summary_line(found), *reports.stale_lines(found, show)]:
            say(line)
        stream, end = sys.stdout.buffer, b"\0" if null else b"\n"
        if json:
            reports.write_json_lines(found.groups, show, model, stream)
        elif all_but_best:
            reports.write_spare(found.groups, show, end, stream)
        elif sys.stdout.isatty() and not null and found.groups:
            show_table(reports.table(found.groups, show))
        else:
            reports.write_paths(found.groups, show, end, stream)
    return ExitCode.OK if found.groups else ExitCode.NO_MATCH


def _check(
    copies: bool,
    bursts: bool,
    threshold: float | None,
    all_but_best: bool,
    json: bool,
    null: bool,
) -> None:
    """Raise UsageError for options that contradict each other."""
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(
            f"--threshold {threshold:g} is not a valid similarity",
            hint="Use a cosine similarity, greater than 0 and at most 1.",
        )
    if copies and (bursts or threshold is not None):
        raise UsageError(
            "--copies cannot be combined with --bursts or --threshold",
            hint="Choose one of them.",
        )
    if json and (null or all_but_best):
        raise UsageError(
            "--json cannot be combined with --null or --all-but-best",
            hint='With --json, each member has "keep": true or false.',
        )
    if bursts and all_but_best:
        raise UsageError(
            "--all-but-best lists copies to delete, but images of a burst are different images",
            hint="Review them with --html FILE, or leave out --bursts.",
        )


def _shown(absolute: bool | None) -> ShowPath:
    """How to print an absolute path."""

    def as_it_is(path: bytes) -> bytes:
        return path

    def from_here(path: bytes) -> bytes:
        return os.path.relpath(path, os.fsencode(Path.cwd()))

    return {None: shown, True: as_it_is, False: from_here}[absolute]
