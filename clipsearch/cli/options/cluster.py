"""Where images are embedded: on this machine, or on a Ray cluster."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, NamedTuple

import typer

from clipsearch.errors import UsageError
from clipsearch.indexing.embed import EmbedFiles, embed_files
from clipsearch.records import ModelFiles

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="HOST:PORT|auto",
        envvar="CLIPSEARCH_RAY",
        help="Decode and embed on the Ray cluster at this address; auto uses the cluster that "
        "this machine belongs to. See clipsearch help scale.",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Models to load on the cluster (default: one per GPU, or one per node without GPUs).",
        show_default=False,
    ),
]
GpusPerWorkerOption = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        min=0,
        metavar="X",
        help="GPUs per model; 0.5 lets two models share one (default: 1 if there are GPUs).",
        show_default=False,
    ),
]


class ClusterChoice(NamedTuple):
    """The cluster options that the user gave."""

    ray: str | None
    workers: int | None
    gpus_per_worker: float | None

    def embedding(
        self, device: str, batch_size: int | None
    ) -> AbstractContextManager[Callable[[ModelFiles], EmbedFiles]]:
        """A context whose value makes a function that embeds files with a model.

        Raises UsageError and ClusterError.
        """
        if self.ray is None:
            if self.workers is not None or self.gpus_per_worker is not None:
                raise UsageError(
                    "--workers and --gpus-per-worker need a Ray cluster", hint="Add --ray auto."
                )
            return nullcontext(lambda files: embed_files)
        try:
            from clipsearch.indexing import on_ray  # slow to load, and an extra
            from clipsearch.indexing.nodes import ClusterOptions
        except ImportError as error:
            raise UsageError(
                f"--ray needs Ray, which is not installed ({error})",
                hint="Install it with: pip install 'clipsearch[ray]'",
            ) from error
        options = ClusterOptions(self.workers, self.gpus_per_worker, device, batch_size)
        return on_ray.connected(self.ray, options)
