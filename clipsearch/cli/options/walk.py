"""Options for which files of a folder are indexed."""

from typing import Annotated

import typer

ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="Leave out files and folders whose name matches, or, with a slash, whose path does. "
        "The index adds GLOB to the patterns that it keeps for later runs, and removes images that "
        "match. Hidden files and folders, node_modules and @eaDir are always left out. "
        "Repeatable.",
        show_default=False,
    ),
]
NoExcludeOption = Annotated[
    bool,
    typer.Option(
        "--no-exclude",
        help="Forget the --exclude patterns that the index keeps; with --exclude, replace them.",
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="Skip images with more pixels. The index keeps this limit until you give another "
        "(default: 256 million, or less on a small machine).",
        show_default=False,
    ),
]
