"""Which files of a folder are indexed."""

from typing import Annotated

import typer

ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="Leave out files and folders of this name, in which * stands for anything, or, with "
        "a slash, at this path. Hidden ones, node_modules and @eaDir always are. Repeatable.",
        show_default=False,
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="Skip images of more pixels; by default 256 million, or less on a small machine.",
        show_default=False,
    ),
]
