"""With which weights a model is loaded, and how many images it takes at a time."""

from typing import Annotated

import typer

PretrainedOption = Annotated[
    str | None,
    typer.Option(
        "--pretrained",
        metavar="TAG|FILE",
        envvar="CLIPSEARCH_PRETRAINED",
        help="The weights for that model: the name of published ones, or a file.",
        show_default=False,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        metavar="N",
        help="Images per batch (default: chosen for the device).",
        show_default=False,
    ),
]
