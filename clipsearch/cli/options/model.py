"""Options for the model, its weights, and its batch size."""

from typing import Annotated, Any

import typer

from clipsearch.cli import completion


def model_option(help: str, envvar: str | None = None) -> Any:
    """``--model``, with what the command does with the model. envvar: may name it instead."""
    return typer.Option(
        "--model",
        autocompletion=completion.models,
        metavar="NAME",
        envvar=envvar,
        help=help,
        show_default=False,
    )


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
