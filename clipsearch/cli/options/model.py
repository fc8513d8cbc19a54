"""Options for a model's weights and batch size."""

from typing import Annotated

import typer

PretrainedOption = Annotated[
    str | None,
    typer.Option(
        "--pretrained",
        metavar="TAG|FILE",
        envvar="CLIPSEARCH_PRETRAINED",
        help="Weights for the model: the tag of published weights, or a file.",
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
