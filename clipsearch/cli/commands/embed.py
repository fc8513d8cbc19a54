"""``clipsearch embed``."""

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, OfflineOption, commands, name_paths, progress, say
from clipsearch.cli.options.cluster import (
    ClusterChoice,
    GpusPerWorkerOption,
    RayOption,
    WorkersOption,
)
from clipsearch.cli.options.model import BatchSizeOption, PretrainedOption, model_option
from clipsearch.errors import ExitCode, UsageError
from clipsearch.indexing.transfer.embed import EmbedOptions, embed
from clipsearch.indexing.transfer.layout import Kind, has_pyarrow
from clipsearch.models.choice import ModelChoice
from clipsearch.text import number_of, printable

app = commands()


@app.command("embed")
def embed_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder of images, or tar archives: files, a folder, a glob, or a pattern like "
            "'laion/{00000..00150}.tar'.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The folder to write: new, or started by the same command.",
            show_default=False,
        ),
    ],
    part: Annotated[
        str,
        typer.Option(
            "--part",
            metavar="I/N",
            help="Make every N-th shard, starting at the I-th, to split work among N processes.",
        ),
    ] = "1/1",
    model: Annotated[
        str | None,
        model_option(
            "The model to embed with, as for clipsearch index.",
            envvar="CLIPSEARCH_MODEL",
        ),
    ] = None,
    pretrained: PretrainedOption = None,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = None,
    parquet: Annotated[
        bool | None,
        typer.Option(
            "--parquet/--npy",
            help="Write metadata as parquet, which needs pyarrow, or as JSON lines (default: "
            "parquet if pyarrow is installed).",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 2 if any image is damaged.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels",
            min=1,
            metavar="N",
            help="Skip images with more pixels (default: 256 million, or less on a small machine).",
            show_default=False,
        ),
    ] = None,
    offline: OfflineOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusPerWorkerOption = None,
) -> int:
    """Embed images into shards, without an index.

    Writes clip-retrieval's layout: OUT/img_emb and OUT/metadata. Each archive becomes a shard; a
    folder is split into shards of 10,000 images. Finished shards are kept, so you can interrupt
    this command and run it again. Index the result with clipsearch import. See clipsearch help
    archives.

    Exit code 2 if an archive is damaged or a file cannot be read; these are listed.

    \b
    Examples:
      clipsearch embed 'laion/{00000..00150}.tar' laion-b16
      clipsearch embed laion laion-b16 --part $SLURM_ARRAY_TASK_ID/8
      seq 8 | xargs -P 8 -I{} clipsearch embed laion laion-b16 --part {}/8
      clipsearch embed laion laion-b16 --ray auto
    """
    kind: Kind = "parquet" if parquet or (parquet is None and has_pyarrow()) else "jsonl"
    options = EmbedOptions(
        ModelChoice(model, pretrained, device, batch_size, offline),
        _part(part),
        kind,
        max_pixels,
    )
    cluster = ClusterChoice(ray, workers, gpus_per_worker)
    with cluster.embedding(device, batch_size) as embed_with, progress() as bar:
        done = embed(sources, out, options, embed_with=embed_with, progress=bar, notify=say)
    for what, found in (
        ("left out", done.left_out),
        ("failed", done.failed),
        ("damaged, embedded only in part:", done.damaged),
        ("cannot read", done.unreadable),
    ):
        name_paths(what, [path for path, _ in found], [why for _, why in found])
    say(
        f"{printable(str(out))}: {number_of(done.shards, 'shard')} finished, "
        f"{done.before} finished before; "
        f"{number_of(done.embedded, 'image')} embedded, "
        f"{number_of(len(done.left_out), 'member')} left out, "
        f"{len(done.failed)} failed, {done.still_failed} failed before, "
        f"{len(done.damaged)} damaged archives, {len(done.unreadable)} unreadable"
    )
    failed = strict and (done.failed or done.still_failed)
    return ExitCode.OK if done.is_whole and not failed else ExitCode.ERROR


def _part(text: str) -> tuple[int, int]:
    number, slash, parts = text.partition("/")
    if slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts):
        return int(number), int(parts)
    raise UsageError(
        f"--part takes I/N with I from 1 to N, not {text}",
        hint="For the third of eight processes: --part 3/8",
    )
