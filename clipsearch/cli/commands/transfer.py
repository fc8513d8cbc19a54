"""``clipsearch export`` and ``clipsearch import``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import (
    DeviceOption,
    IndexOption,
    OfflineOption,
    commands,
    name_paths,
    progress,
    say,
)
from clipsearch.cli.options.filters import FilterOptions
from clipsearch.cli.options.groups import grouped
from clipsearch.cli.searching import opened, tell_left_out
from clipsearch.errors import ExitCode, UsageError
from clipsearch.indexing.transfer.export import export
from clipsearch.indexing.transfer.import_ import ImportOptions, import_embeddings
from clipsearch.indexing.transfer.layout import Kind, has_pyarrow
from clipsearch.models.choice import ModelChoice
from clipsearch.storage import known
from clipsearch.text import printable

app = commands()


@app.command("export")
@grouped
def export_command(
    *,
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The new folder to write.", show_default=False),
    ],
    parquet: Annotated[
        bool | None,
        typer.Option(
            "--parquet/--npy",
            help="Write metadata as parquet, as clip-retrieval does, or as JSON lines. Parquet "
            "needs pyarrow (default: parquet if pyarrow is installed).",
            show_default=False,
        ),
    ] = None,
    where: FilterOptions,
    index: IndexOption = None,
) -> int:
    """Write the embeddings of a collection in clip-retrieval's layout.

    FOLDER/img_emb/img_emb_N.npy holds the embeddings (float16). FOLDER/metadata/metadata_N.parquet
    or .jsonl describes the image of each row: its image_path and any other metadata.
    clipsearch.json names the model. A path that is not UTF-8 is stored in full in path_bytes
    (base64 in JSON lines).

    \b
    Examples:
      clipsearch export embeddings
      clipsearch export embeddings --npy --under 2024 --type jpeg
    """
    with opened(where, index) as (stores, only), progress() as bar:
        if len(stores) > 1:
            raise UsageError(
                f"there are {len(stores)} indexed folders here, but an export takes one",
                hint="Choose one with --under FOLDER.",
            )
        known.protect(Path(os.path.realpath(folder)), stores)
        tell_left_out(stores, only)
        kind: Kind = "parquet" if parquet or (parquet is None and has_pyarrow()) else "jsonl"
        rows = export(stores[0], folder, kind, only, bar)
    if not rows:
        say("no indexed image passes the filters; nothing was written")
        return ExitCode.NO_MATCH
    say(f"wrote {rows} embeddings to {_shown(os.fsencode(folder))}")
    if parquet is None and kind == "jsonl":
        say(
            "pyarrow is not installed, so the metadata is in JSON lines, which clipsearch import "
            "can read; for parquet: pip install 'clipsearch[parquet]'"
        )
    return ExitCode.OK


@app.command("import")
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A folder from clipsearch embed, clipsearch export or clip-retrieval inference.",
            show_default=False,
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="FOLDER",
            help="Folder that holds the images or their archives (default: none; nothing is read).",
            show_default=False,
        ),
    ] = None,
    no_files: Annotated[
        bool,
        typer.Option("--no-files", help="Import without the files that DIR names."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="The model that made the embeddings, as for clipsearch index (default: the "
            "index's own, or the one that clipsearch.json names, if it is on this machine).",
            show_default=False,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained",
            metavar="TAG|FILE",
            help="Weights for the model, as for clipsearch index.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            min=1,
            metavar="N",
            help="Number of images to embed again and compare with DIR.",
        ),
    ] = 20,
    device: DeviceOption = "auto",
    index: IndexOption = None,
    offline: OfflineOption = False,
) -> int:
    """Index images with embeddings that were made before.

    Each image_path is absolute, or relative to FOLDER or the current folder; a collection that
    clipsearch exported may have been moved. Images are read, but only a sample is embedded: if an
    embedding does not match its image, nothing is imported and the exit code is 2. Rows without an
    image are listed. Images that have changed since clipsearch exported them are left to clipsearch
    index. So are images from other programs' exports that are transparent or rotated by EXIF: these
    exports do not record changes, and programs decode such images differently.

    Images inside tar archives stay there: a hit is archive.tar/picture.jpg, with its caption and
    URL in --json. Without --root, DIR is indexed by itself: no image is compared, so the embeddings
    are trusted as they are, and hits have no thumbnails. See clipsearch help archives.

    \b
    Examples:
      clipsearch import embeddings --root ~/Pictures
      clipsearch import laion-b16 --root laion
      clipsearch import laion-b16
      clipsearch import laion --root ./photos --model ViT-B-32 --pretrained openai
    """
    options = ImportOptions(
        ModelChoice(model, pretrained, device, None, offline), index, sample, no_files
    )
    if root is not None and no_files:
        raise UsageError(
            "--root cannot be combined with --no-files",
            hint="Choose one of them.",
        )
    with progress() as bar:
        done = import_embeddings(source, root, options, progress=bar, notify=say)
    name_paths("no image found for", done.missing)
    name_paths(
        "archive missing or too short:",
        [archive for archive, _ in done.archives],
        [f"{rows} images" for _, rows in done.archives],
    )
    name_paths("embedded from a damaged archive:", [os.fsencode(text) for text in done.damaged])
    name_paths("duplicate row for", done.duplicates)
    name_paths("left to clipsearch index:", done.left)
    name_paths("skipping", [path for path, _ in done.failed], [reason for _, reason in done.failed])
    missing = len(done.missing) + sum(rows for _, rows in done.archives)
    say(
        f"{_shown(os.fsencode(root or source))}: {done.added} imported, {done.known} already "
        f"indexed, {missing} missing, {len(done.duplicates)} duplicates, "
        f"{len(done.left)} left to index, {len(done.failed)} failed; "
        f"{done.compared} embedded again and compared"
    )
    return ExitCode.OK


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))
