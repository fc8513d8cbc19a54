"""``clipsearch index``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli import completion
from clipsearch.cli.app import (
    DeviceOption,
    IndexOption,
    OfflineOption,
    commands,
    error_lines,
    progress,
    say,
    tell,
)
from clipsearch.cli.options.cluster import (
    ClusterChoice,
    GpusPerWorkerOption,
    RayOption,
    WorkersOption,
)
from clipsearch.cli.options.model import BatchSizeOption, PretrainedOption, model_option
from clipsearch.cli.options.walk import ExcludeOption, MaxPixelsOption, NoExcludeOption
from clipsearch.cli.render.status import summary_lines
from clipsearch.domain import taxonomy
from clipsearch.errors import ClipsearchError, ExitCode, UsageError
from clipsearch.indexing.update import UpdateOptions, update
from clipsearch.models import registry
from clipsearch.models.choice import ModelChoice

app = commands()


@app.command("index")
def index_command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Folders of images.", readable=False)
    ],
    model: Annotated[
        str | None,
        model_option(
            "The model to embed images with: a name from clipsearch models --all, a model "
            "folder, hf-hub:ORG/REPO, or pocket, which is small and built in (default: the "
            "index's own; for a new index ViT-B-16, or pocket if its weights are unavailable).",
            envvar="CLIPSEARCH_MODEL",
        ),
    ] = None,
    pretrained: PretrainedOption = None,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = None,
    index: IndexOption = None,
    exclude: ExcludeOption = None,
    no_exclude: NoExcludeOption = False,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            autocompletion=completion.domains,
            metavar="FILE|NAME",
            help="What the images are about; see clipsearch domain. Changing it later is quick "
            "(default: the index's own; for a new index everyday).",
            show_default=False,
        ),
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Embed all images again, which is required to change the model. In a damaged "
            "index, keep what can be read and embed the rest.",
        ),
    ] = False,
    rehome: Annotated[
        bool,
        typer.Option(
            "--rehome",
            help="Update the index at --index after its images have moved to PATH.",
        ),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Remove missing images from the index even if there are many."
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait if another run is writing to the same index.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 2 if any image is damaged.")
    ] = False,
    max_pixels: MaxPixelsOption = None,
    offline: OfflineOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusPerWorkerOption = None,
) -> int:
    """Create or update the index of each folder.

    Only new and changed images are read. Finished work is kept, so you can interrupt this command
    and run it again. The images themselves are never changed.

    \b
    Examples:
      clipsearch index ~/Pictures
      clipsearch index ./photos --exclude '*_thumb.jpg' --exclude raw/old
      clipsearch index /mnt/readonly/photos --index ~/photo-index
      clipsearch index ./parts --domain parts.toml
      clipsearch index /mnt/shared/archive --ray auto
    """
    if index is not None and len(folders) > 1:
        raise UsageError(
            "--index takes one folder, not several",
            hint="Index the folders one by one.",
        )
    if model and pretrained and pretrained == os.environ.get("CLIPSEARCH_PRETRAINED"):
        # The variable is a default, which an option overrides.
        pretrained = None if registry.brings_weights(model) else pretrained
    options = UpdateOptions(
        model=ModelChoice(model, pretrained, device, batch_size, offline),
        index=index,
        exclude=exclude or [],
        no_exclude=no_exclude,
        max_pixels=max_pixels,
        domain=taxonomy.load(domain) if domain else None,
        rebuild=rebuild,
        rehome=rehome,
        prune=prune,
        wait=wait,
    )
    code = ExitCode.OK
    cluster = ClusterChoice(ray, workers, gpus_per_worker)
    with cluster.embedding(device, batch_size) as embed_with:
        for folder in folders:
            try:
                with progress() as bar:
                    summary = update(
                        folder, options, embed_with=embed_with, progress=bar, notify=say
                    )
            except (ClipsearchError, OSError) as error:
                if len(folders) == 1 or isinstance(error, BrokenPipeError):
                    raise
                # The other folders are still indexed. ERROR is the worst exit code of any folder.
                for line in error_lines(error):
                    tell(line)
                code = ExitCode.ERROR
                continue
            for line in summary_lines(str(folder), summary):
                say(line)
            if summary.unreadable or (strict and (summary.failed or summary.still_failed)):
                code = ExitCode.ERROR
    return code
