"""Hits as pictures, beside their paths: ``--html``, ``--montage`` and ``--preview``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import say
from clipsearch.cli.html import check, write
from clipsearch.errors import UsageError

if TYPE_CHECKING:
    from clipsearch.records import Hit

HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Also write one page of thumbnails, with scores, classes and paths.",
        show_default=False,
    ),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Show that page in a browser.")]
MontageOption = Annotated[
    Path | None,
    typer.Option(
        "--montage",
        metavar="FILE",
        help="Also write one picture of all thumbnails, with ranks and scores: a PNG or a JPEG.",
        show_default=False,
    ),
]
PreviewOption = Annotated[
    bool,
    typer.Option("--preview", help="Also draw the thumbnails in the terminal."),
]


@dataclass(frozen=True, slots=True)
class Showing:
    """What was asked for."""

    html: Path | None
    open_page: bool
    montage: Path | None
    preview: bool

    def check(self) -> None:
        """Raise UsageError, before any work is done, for what cannot be."""
        check(self.html)
        check(self.montage, "--montage")
        if self.open_page and self.html is None:
            raise UsageError("--open shows the page of --html", hint="Add --html FILE.")
        if self.montage is not None:
            from clipsearch.montage import format_of

            format_of(self.montage.name)
        if self.preview:
            from clipsearch.preview import require_terminal

            require_terminal()

    def show(
        self,
        hits: "Sequence[Hit]",
        classes: Sequence[str | None],
        asked: str,
        model: str,
        notes: Sequence[str],
    ) -> None:
        """Do it; the thumbnails are made once. The rest is as ``contact_sheet.page`` takes it."""
        if self.html is None and self.montage is None and not self.preview:
            return
        from clipsearch.output import absolute_path
        from clipsearch.pages import contact_sheet
        from clipsearch.pages.hits import THUMBNAIL
        from clipsearch.thumbnails import thumbnails

        paths = list(dict.fromkeys(map(absolute_path, hits)))
        pictures = thumbnails(b"", paths, THUMBNAIL)
        if self.preview:
            from clipsearch.preview import preview

            preview(hits, pictures)
        if self.html is not None:
            write(self.html, contact_sheet.page(hits, classes, pictures, asked, model, notes))
        if self.montage is not None:
            from clipsearch.montage import MOST, format_of, montage

            if len(hits) > MOST:
                say(f"the montage has the first {MOST} of {len(hits)} hits")
            write(self.montage, montage(hits, pictures, format_of(self.montage.name)))
        if self.open_page and self.html is not None:
            typer.launch(self.html.absolute().as_uri())
