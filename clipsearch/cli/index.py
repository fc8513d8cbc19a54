"""``clipsearch index``."""

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, OfflineOption, app, progress, say
from clipsearch.cli.choosing import (
    ModelChoice,
    load_encoder,
    load_text_encoder,
    model_for,
    new_model,
)
from clipsearch.errors import ExitCode, IndexLocked, IndexNotFound, UsageError

if TYPE_CHECKING:
    from clipsearch.domain.taxonomy import Domain
    from clipsearch.records import IndexSummary, ModelFiles
    from clipsearch.store import Store


@app.command("index")
def index_command(
    folders: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders of images.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            envvar="CLIPSEARCH_MODEL",
            help="An open_clip architecture, a model folder, hf-hub:ORG/REPO, or pocket. "
            "By default the index's own model; for a new index ViT-B-16, or pocket if its "
            "weights cannot be had.",
            show_default=False,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained",
            metavar="TAG|FILE",
            envvar="CLIPSEARCH_PRETRAINED",
            help="Published weights of the architecture, or a checkpoint file.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images per step of the model; by default what suits the device.",
            show_default=False,
        ),
    ] = None,
    index: IndexOption = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            help="Leave out files and folders of this name, or, with a slash, at this path. "
            "Hidden ones, node_modules and @eaDir always are. Repeatable.",
            show_default=False,
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            metavar="FILE|NAME",
            help="The class taxonomy that the collection is searched and tested with; by default "
            "the index's own, for a new index everyday. Changing it embeds no image anew.",
            show_default=False,
        ),
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Embed everything anew; needed to change the model."),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Accept that many images are gone, and forget them."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait while another run writes to the same index.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 if any image cannot be decoded.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels",
            min=1,
            metavar="N",
            help="Refuse images of more pixels; by default 256 million, or less on a small "
            "machine.",
            show_default=False,
        ),
    ] = None,
    offline: OfflineOption = False,
) -> int:
    """Bring the index of each folder up to date.

    Only new and changed images are embedded, and every batch is kept as soon as it is done:
    interrupt at will and run it again.

    \b
    Examples:
      clipsearch index ~/Pictures
      clipsearch index ./photos --exclude '*_thumb.jpg' --exclude raw/old
      clipsearch index /mnt/readonly/photos --index ~/photo-index
      clipsearch index ./parts --domain parts.toml
    """
    from clipsearch.domain import taxonomy

    if index is not None and len(folders) > 1:
        raise UsageError(
            "--index names the place of one index, but there are several folders",
            hint="Index them one by one.",
        )
    choice = ModelChoice(model, pretrained, device, batch_size, offline)
    pinned = taxonomy.load(domain) if domain else None
    code = ExitCode.OK
    for folder in folders:
        summary = _index_folder(
            folder, choice, index, pinned, exclude or [], rebuild, prune, max_pixels, wait
        )
        if summary.unreadable or (strict and (summary.failed or summary.still_failed)):
            code = ExitCode.ERROR
    return code


def _index_folder(
    folder: Path,
    choice: ModelChoice,
    index: Path | None,
    domain: "Domain | None",
    exclude: Sequence[str],
    rebuild: bool,
    prune: bool,
    max_pixels: int | None,
    wait: bool,
) -> "IndexSummary":
    from clipsearch import assurance, collections, images, output
    from clipsearch.indexing import update
    from clipsearch.store import REBUILD, Store

    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}", hint="index takes folders of images.")
    root = folder.resolve()
    holder = None if index else collections.holding(root)
    directory = holder or collections.directory_for(root, index)
    with ExitStack() as stack:
        try:
            store = stack.enter_context(_writer(directory, wait))
        except IndexNotFound:
            files = new_model(choice)
            store = stack.enter_context(Store.create(directory, root, files.spec))
        else:
            if index and store.root != root and store.root.exists():
                raise UsageError(
                    f"the index at {directory} is that of {store.root}, not of {root}",
                    hint="Name another place with --index.",
                )
            # An index without pictures is not bound to its model, which perhaps never worked.
            files = model_for(store, choice, may_change=rebuild or store.is_empty())
            rebuild = rebuild or files.spec.fingerprint != store.spec.fingerprint
        collections.remember(directory, store.root)
        target = store
        if rebuild:
            target = stack.enter_context(_rebuilding(store, directory / REBUILD, files))
        under = b"" if rebuild else images.relative(root, store.root)
        found = images.find(os.fsencode(store.root), exclude=exclude, under=under)
        with progress() as bar:
            summary = update(
                target,
                found,
                lambda: load_encoder(files, choice),
                under=under,
                prune=prune,
                max_pixels=max_pixels,
                progress=bar,
            )
            if rebuild:
                assurance.carry_over(store, target)
            if domain:
                assurance.pin(target, domain)
            bar("measuring what scores mean", 0, 1)
            assurance.calibrate(target, lambda: load_text_encoder(files, choice))
        if rebuild:
            store.replace_with(target)
    for line in output.summary_lines(str(folder), summary):
        say(line)
    return summary


def _writer(directory: Path, wait: bool) -> "Store":
    """The index, as soon as it can be written to if we are to ``wait``."""
    from clipsearch.store import Store

    try:
        return Store.open_for_writing(directory)
    except IndexLocked as error:
        if not wait:
            raise
        say(f"{error}; waiting for it")
    return Store.open_for_writing(directory, wait=True)


def _rebuilding(old: "Store", directory: Path, files: "ModelFiles") -> "Store":
    """The index that is to replace ``old``: an interrupted one is taken up again."""
    from clipsearch.store import Store

    if Store.exists(directory):
        unfinished = Store.open_for_writing(directory)
        if unfinished.spec.fingerprint == files.spec.fingerprint:
            return unfinished
        unfinished.close()
        shutil.rmtree(directory)
    return Store.create(directory, old.root, files.spec)
