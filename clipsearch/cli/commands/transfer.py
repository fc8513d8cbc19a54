"""``clipsearch export`` and ``clipsearch import``."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, OfflineOption, commands, progress, say
from clipsearch.cli.options.filters import FilterOptions
from clipsearch.cli.options.groups import grouped
from clipsearch.cli.options.model import (
    ModelChoice,
    load_encoder,
    load_text_encoder,
    model_for,
    named_model,
)
from clipsearch.cli.searching import opened, tell_left_out
from clipsearch.errors import ExchangeError, ExitCode, IndexNotFound, UsageError
from clipsearch.paths import relative

if TYPE_CHECKING:
    from clipsearch.indexing.transfer import Export
    from clipsearch.records import ModelFiles

app = commands()


_NAMED = 20
"""So many paths are named; that there are more is said."""


@app.command("export")
@grouped
def export_command(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new folder to write.", show_default=False)
    ],
    parquet: Annotated[
        bool,
        typer.Option(
            "--parquet/--npy",
            help="Metadata as clip-retrieval writes it, which needs pyarrow, or as JSON lines, "
            "which needs nothing.",
        ),
    ] = True,
    where: FilterOptions,
    index: IndexOption = None,
) -> int:
    """Write the embeddings of a collection in the layout of clip-retrieval.

    FOLDER/img_emb/img_emb_N.npy are the embeddings (float16), FOLDER/metadata/metadata_N.parquet
    or .jsonl their pictures, row by row: image_path and what else is known; clipsearch.json tells
    the model. A path that is not UTF-8 is whole in path_bytes (base64 in JSON lines).

    \b
    Examples:
      clipsearch export embeddings
      clipsearch export embeddings --npy --under 2024 --type jpeg
    """
    from clipsearch.indexing import transfer

    with opened(where, index) as (stores, only), progress() as bar:
        if len(stores) > 1:
            raise UsageError(
                f"there are {len(stores)} indexed folders here, and an export is of one",
                hint="Say which one you mean with --under FOLDER.",
            )
        tell_left_out(stores, only)
        kind: transfer.Kind = "parquet" if parquet else "jsonl"
        rows = transfer.export(stores[0], folder, kind, only, bar)
    if not rows:
        say("no indexed picture passes the filters; nothing was written")
        return ExitCode.NO_MATCH
    say(f"wrote {rows} embeddings to {_shown(os.fsencode(folder))}")
    return ExitCode.OK


@app.command("import")
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="What clipsearch export or clip-retrieval inference wrote.",
            show_default=False,
        ),
    ],
    root: Annotated[
        Path,
        typer.Option(
            "--root", metavar="FOLDER", help="Where the pictures are.", show_default=False
        ),
    ],
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
            help="Make so many embeddings anew from their pictures, and compare.",
        ),
    ] = 20,
    device: DeviceOption = "auto",
    index: IndexOption = None,
    offline: OfflineOption = False,
) -> int:
    """Index the pictures of a folder with embeddings that were made before.

    Each image_path is absolute, or relative to FOLDER or the current folder; a collection that
    clipsearch exported may have been moved. The pictures are read, and not embedded, but for a
    sample: if one of these embeddings is not its picture's own, nothing is imported and the exit
    code is 2. Rows without a picture are named. Left to clipsearch index are pictures that have
    changed since clipsearch exported them; and of other programs' exports, which do not tell,
    pictures that are transparent or turned by their EXIF, which not all programs see alike.

    \b
    Examples:
      clipsearch import embeddings --root ~/Pictures
      clipsearch import laion --root ./photos --model ViT-B-32 --pretrained openai
    """
    from clipsearch.images import scan
    from clipsearch.indexing import transfer
    from clipsearch.storage import collection, known
    from clipsearch.storage.catalog import Store

    if not root.is_dir():
        raise UsageError(f"{root} is no folder", hint="--root takes the folder of pictures.")
    choice = ModelChoice(model, pretrained, device, None, offline)
    exported = transfer.read(source)
    folder = root.resolve()
    holder = None if index else known.holding(folder)
    directory = holder or known.directory_for(folder, index)
    with ExitStack() as stack, progress() as bar:
        store: Store | None = None
        try:
            store = stack.enter_context(Store.open_for_writing(directory))
        except IndexNotFound:
            files = _model_of(exported, choice)
        else:
            if not folder.is_relative_to(store.root):
                raise UsageError(
                    f"the index at {directory} is that of {store.root}, not of {folder}",
                    hint="Name another place with --index.",
                )
            files = model_for(store, choice, may_change=False)
        transfer.require_model(exported, files.spec)
        base = store.root if store else folder
        under = relative(folder, base)
        found = scan.find(os.fsencode(base), under=under)
        matched = transfer.match(
            exported,
            os.fsencode(folder),
            os.fsencode(base),
            found,
            store.known(under) if store else {},
        )
        _name("no picture in the folder for", matched.missing)
        _name("a second row for", matched.duplicates)
        if not matched.wanted and not matched.known:
            raise ExchangeError(
                f"none of the {exported.rows} rows of {source} names a picture in {root}",
                hint="--root takes the folder that their image_path is in, or is relative to.",
            )
        done, compared = transfer.Imported(), 0
        if matched.wanted:
            compared = transfer.check(
                exported,
                matched,
                os.fsencode(base),
                files.spec,
                lambda: load_encoder(files, choice),
                sample,
                bar,
            )
            store = store or stack.enter_context(Store.create(directory, folder, files.spec))
            known.remember(directory, store.root)
            done = transfer.add(store, exported, matched, bar)
            store.update_vector_index()
            bar("measuring what scores mean", 0, 1)
            collection.calibrate(store, lambda: load_text_encoder(files, choice))
    _name("left to clipsearch index:", done.left)
    _name("skipping", [path for path, _ in done.failed], [reason for _, reason in done.failed])
    say(
        f"{_shown(os.fsencode(root))}: {done.added} imported, {matched.known} indexed before, "
        f"{len(matched.missing)} missing, {len(matched.duplicates)} duplicates, "
        f"{len(done.left)} left to index, {len(done.failed)} failed; "
        f"{compared} compared with embeddings made anew"
    )
    return ExitCode.OK


def _model_of(exported: "Export", choice: ModelChoice) -> "ModelFiles":
    """The model of a new index: the one that was named, or that the export tells."""
    if choice.name is None and choice.pretrained is None:
        if not exported.told:
            raise UsageError(
                f"{exported.folder} does not tell which model made it",
                hint="Name it, for example with --model ViT-B-32 --pretrained openai.",
            )
        # A file that came from elsewhere may name a model, and not have one fetched.
        named = exported.told["name"], exported.told.get("pretrained")
        choice = replace(choice, name=named[0], pretrained=named[1], offline=True)
    return named_model(choice)


def _name(what: str, paths: Sequence[bytes], reasons: Sequence[str] = ()) -> None:
    from clipsearch.text import printable

    for n, path in enumerate(paths[:_NAMED]):
        say(f"{what} {_shown(path)}" + (f": {printable(reasons[n])}" if reasons else ""))
    if len(paths) > _NAMED:
        say(f"{what} {len(paths) - _NAMED} more")


def _shown(path: bytes) -> str:
    from clipsearch.text import printable

    return printable(os.fsdecode(path))
