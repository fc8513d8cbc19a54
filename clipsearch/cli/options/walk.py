"""Which files of a folder are indexed."""

from typing import Annotated

import typer

ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="Leave out files and folders of this name, in which * stands for anything, or, with "
        "a slash, at this path. Kept with the index, for every later run; another one adds to "
        "those that are kept. Images in the index that it covers are removed. Hidden ones, "
        "node_modules and @eaDir are always left out. Repeatable.",
        show_default=False,
    ),
]
NoExcludeOption = Annotated[
    bool,
    typer.Option(
        "--no-exclude",
        help="Forget every --exclude that is kept with the index; with --exclude, replace them.",
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="Skip images of more pixels. Kept with the index until another value is given "
        "(default: 256 million, or less on a small machine).",
        show_default=False,
    ),
]
