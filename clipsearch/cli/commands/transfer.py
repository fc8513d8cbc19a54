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
        Path, typer.Argument(metavar="FOLDER", help="A new folder to write.", show_default=False)
    ],
    parquet: Annotated[
        bool | None,
        typer.Option(
            "--parquet/--npy",
            help="Metadata as clip-retrieval writes it, which needs pyarrow, or as JSON lines, "
            "which needs nothing (default: parquet if pyarrow is installed).",
            show_default=False,
        ),
    ] = None,
    where: FilterOptions,
    index: IndexOption = None,
) -> int:
    """Write the embeddings of a collection in the layout of clip-retrieval.

    FOLDER/img_emb/img_emb_N.npy are the embeddings (float16), FOLDER/metadata/metadata_N.parquet
    or .jsonl their images, row by row: image_path and what else is known; clipsearch.json tells
    the model. A path that is not UTF-8 is whole in path_bytes (base64 in JSON lines).

    \b
    Examples:
      clipsearch export embeddings
      clipsearch export embeddings --npy --under 2024 --type jpeg
    """
    with opened(where, index) as (stores, only), progress() as bar:
        if len(stores) > 1:
            raise UsageError(
                f"there are {len(stores)} indexed folders here, and an export is of one",
                hint="Say which one you mean with --under FOLDER.",
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
            "pyarrow is not installed, so their metadata is in JSON lines, which clipsearch import "
            "reads; for parquet: pip install 'clipsearch[parquet]'"
        )
    return ExitCode.OK


@app.command("import")
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="What clipsearch embed, clipsearch export or clip-retrieval inference wrote.",
            show_default=False,
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="FOLDER",
            help="Where the images or their archives are (default: they are not here).",
            show_default=False,
        ),
    ] = None,
    no_files: Annotated[
        bool,
        typer.Option("--no-files", help="Do without the files that DIR names: they are not here."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Which model made the embeddings, as for index; by default that of the index, or "
            "the one that clipsearch.json tells, if it is on this machine.",
            show_default=False,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option("--pretrained", metavar="TAG|FILE", help="As for index.", show_default=False),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            min=1,
            metavar="N",
            help="Make so many embeddings again from their images, and compare.",
        ),
    ] = 20,
    device: DeviceOption = "auto",
    index: IndexOption = None,
    offline: OfflineOption = False,
) -> int:
    """Index images with embeddings that were made before.

    Each image_path is absolute, or relative to FOLDER or the current folder; a collection that
    clipsearch exported may have been moved. The images are read, and not embedded, but for a
    sample: if one of these embeddings is not its image's own, nothing is imported and the exit
    code is 2. Rows without an image are named. Left to clipsearch index are images that have
    changed since clipsearch exported them; and of other programs' exports, which do not tell,
    images that are transparent or turned by their EXIF, which not all programs see alike.

    Images inside tar archives stay there: a hit is archive.tar/picture.jpg, with its caption and
    URL in --json. Without --root DIR is indexed by itself: no image is compared, so that the
    embeddings are taken on trust, and hits have no thumbnails. See clipsearch help archives.

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
            "--root says where the images are, and --no-files that they are not here",
            hint="Choose one of them.",
        )
    with progress() as bar:
        done = import_embeddings(source, root, options, progress=bar, notify=say)
    name_paths("no image in the folder for", done.missing)
    name_paths(
        "no such archive in the folder, or a shorter one:",
        [archive for archive, _ in done.archives],
        [f"{rows} images" for _, rows in done.archives],
    )
    name_paths("embedded from a damaged archive:", [os.fsencode(text) for text in done.damaged])
    name_paths("a second row for", done.duplicates)
    name_paths("left to clipsearch index:", done.left)
    name_paths("skipping", [path for path, _ in done.failed], [reason for _, reason in done.failed])
    missing = len(done.missing) + sum(rows for _, rows in done.archives)
    say(
        f"{_shown(os.fsencode(root or source))}: {done.added} imported, {done.known} indexed "
        f"before, {missing} missing, {len(done.duplicates)} duplicates, "
        f"{len(done.left)} left to index, {len(done.failed)} failed; "
        f"{done.compared} compared with embeddings made again"
    )
    return ExitCode.OK


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))
