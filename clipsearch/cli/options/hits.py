"""Options for how hits are printed and shown."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import say
from clipsearch.cli.options import files
from clipsearch.errors import UsageError
from clipsearch.paths import absolute_path, relative_path, shown_path

if TYPE_CHECKING:
    from clipsearch.cli.render.hits import Show, Write
    from clipsearch.records import Hit
    from clipsearch.storage.catalog import Store


AbsoluteOption = Annotated[
    bool | None,
    typer.Option(
        "--absolute/--relative",
        help="Print absolute paths, or paths relative to the current folder (default: relative "
        "if the image is in the current folder).",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class HitOptions:
    """How hits are printed, and where else they are shown."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False
    null: Annotated[bool, typer.Option("-0", "--null", help="End each path with NUL.")] = False
    template: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="TEMPLATE",
            help="Print one line per hit, such as '{score:.3f}\\t{path}'; the fields are the keys "
            "of --json.",
            show_default=False,
        ),
    ] = None
    absolute: AbsoluteOption = None
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Also write an HTML page of thumbnails with scores, classes and paths.",
            show_default=False,
        ),
    ] = None
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page of --html in a browser.")
    ] = False
    montage: Annotated[
        Path | None,
        typer.Option(
            "--montage",
            metavar="FILE",
            help="Also write one image (PNG or JPEG) of all thumbnails, with ranks and scores.",
            show_default=False,
        ),
    ] = None
    force: files.ForceOption = False
    preview: Annotated[
        bool, typer.Option("--preview", help="Also draw the thumbnails in the terminal.")
    ] = False
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing; only set the exit code.")
    ] = False

    def check(self) -> None:
        """Raise UsageError for options that cannot work, before any work is done."""
        self.writer()
        for path, option in ((self.html, "--html"), (self.montage, "--montage")):
            if path is not None:
                files.target_of(path, option)
        if self.open_page and self.html is None:
            raise UsageError("--open needs a page to show", hint="Add --html FILE.")
        if self.montage is not None:
            from clipsearch.images.montage import format_of

            format_of(self.montage.name)
        if self.preview and self.quiet:
            raise UsageError(
                "--preview cannot be combined with --quiet",
                hint="Choose one of them.",
            )
        if self.preview:
            from clipsearch.cli.render.preview import require_terminal

            require_terminal()

    def check_files(self, stores: "Sequence[Store]") -> None:
        """Raise UsageError for files that must not be written, before any work is done."""
        files.check(self.html, stores, force=self.force)
        files.check(self.montage, stores, option="--montage", force=self.force)

    def show(self) -> "Show":
        """How paths are printed."""
        shows = {None: shown_path, True: absolute_path, False: relative_path}
        return shows[self.absolute]

    @property
    def is_table(self) -> bool:
        """Whether hits are printed as a table, for a person at a terminal."""
        other = self.json or self.null or self.quiet or self.template is not None
        return sys.stdout.isatty() and not other

    def writer(
        self, classes: Sequence[str | None] = (), footer: Sequence[tuple[str, ...]] = ()
    ) -> "Write":
        """How hits are printed. Raises UsageError for an invalid template.

        classes and footer: for a table; see ``write_table``.
        """
        from clipsearch.cli.render.hits import (
            write_json_lines,
            write_paths,
            write_table,
            write_template,
        )

        if self.json and (self.null or self.template is not None):
            raise UsageError(
                "--json cannot be combined with --null or --format",
                hint="Choose one of them.",
            )
        end = b"\0" if self.null else b"\n"
        if self.json:
            return write_json_lines(self.show())
        if self.template is not None:
            return write_template(self.template, self.show(), end)
        if self.is_table:
            return write_table(self.show(), classes, footer)
        return write_paths(self.show(), end)

    def write(
        self,
        hits: "Sequence[Hit]",
        classes: Sequence[str | None],
        asked: str,
        model: str,
        said: Iterable[str],
        notes: Sequence[str],
        *,
        nearest: "Sequence[Hit]" = (),
        footer: Sequence[tuple[str, ...]] = (),
    ) -> None:
        """Write the page and the montage if requested, then print the hits.

        Files come first because the reader of the hits may stop early, as ``head`` does. Without
        hits the page says so and shows the ``nearest``, and no montage is written.
        classes: the class of each hit; only the page and the table need them. asked: the query in
        words. said: the verdict and the number of hits, for the page's heading. notes: facts about
        the answer, one per line. footer: the table's. Raises UsageError for files that cannot be
        written.
        """
        shown = self.html is not None or self.montage is not None or self.preview
        on_page = hits or nearest
        pictures = _thumbnails(on_page) if shown and on_page else {}
        if self.html is not None:
            from clipsearch.web.pages import contact_sheet

            page = contact_sheet.page(
                on_page,
                classes if hits else [None] * len(nearest),
                pictures,
                asked,
                said,
                [f"ranked by {model}", *notes],
                nearest=not hits,
            )
            files.write(self.html, page, force=self.force)
        if self.montage is not None:
            self._write_montage(self.montage, hits, pictures)
        if hits and not self.quiet:
            self.writer(classes, footer)(hits, model, sys.stdout.buffer)
        if hits and self.preview:
            from clipsearch.cli.render.preview import preview

            sys.stdout.flush()
            preview(hits, pictures)
        if self.open_page and self.html is not None:
            typer.launch(self.html.absolute().as_uri())

    def _write_montage(
        self, path: Path, hits: "Sequence[Hit]", pictures: Mapping[bytes, bytes]
    ) -> None:
        from clipsearch.images.montage import MOST, format_of, montage

        if not hits:
            say("no montage written: no match")
            return
        if len(hits) > MOST:
            say(f"the montage shows the first {MOST:,} of {len(hits):,} hits")
        files.write(path, montage(hits, pictures, format_of(path.name)), force=self.force)


def _thumbnails(hits: "Sequence[Hit]") -> Mapping[bytes, bytes]:
    from clipsearch.images.thumbnails import thumbnails_of  # here: Pillow costs a query 30 ms

    return thumbnails_of(hits)
