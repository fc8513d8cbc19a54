"""``clipsearch evaluate``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, OfflineOption, commands, progress, say
from clipsearch.cli.options.collection import (
    UnderOption,
    directory_if_any,
    directory_of_one,
    say_skipped,
)
from clipsearch.cli.options.files import ForceOption, check, write
from clipsearch.cli.options.model import model_option
from clipsearch.cli.render.benchmark import (
    benchmark_lines,
    benchmark_record,
    benchmark_table,
    benchmark_title,
)
from clipsearch.cli.render.evaluation import evaluation_lines, evaluation_record, evaluation_tables
from clipsearch.cli.render.json_lines import json_line
from clipsearch.cli.render.table import show
from clipsearch.errors import ExitCode, UsageError
from clipsearch.evaluation.benchmark import measure
from clipsearch.evaluation.clip_benchmark import Benchmark, is_benchmark
from clipsearch.evaluation.clip_benchmark import read as read_benchmark
from clipsearch.evaluation.evaluate import Findings, evaluate
from clipsearch.evaluation.labelled import read
from clipsearch.models import registry
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.records import ModelFiles
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.text import printable

app = commands()


@app.command("evaluate")
def evaluate_command(
    labelled: Annotated[
        Path,
        typer.Argument(
            metavar="LABELED",
            help="A folder with one folder per class, a CSV or TSV file with the columns "
            "path,label or path,caption, or a folder of CLIP_benchmark archives.",
            show_default=False,
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Also write an HTML page with the confusion matrix and misclassified images.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Also measure the accuracy of a probe trained on 1, 2, 4, 8, 16 and all of these "
            "images per class.",
        ),
    ] = False,
    force: ForceOption = False,
    linear_probe: Annotated[
        bool,
        typer.Option(
            "--linear-probe",
            help="Also train a linear probe on the train split of CLIP_benchmark archives.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        model_option(
            "The model to measure on CLIP_benchmark archives, as for clipsearch index "
            "(default: the model of the index here, or the one that a new index would use).",
        ),
    ] = None,
    under: UnderOption = None,
    device: DeviceOption = "auto",
    index: IndexOption = None,
    offline: OfflineOption = False,
) -> int:
    """Test an index's model and domain on labeled images, and keep the result in the index.

    Indexed images are not read again. An index counts as tested once its model and domain meet the
    domain's pass marks, which set the required accuracy. Exit code 0 if they do, 1 if they do not.
    An evaluation with fewer images than the pass marks require changes nothing. A file may give an
    image several labels, one per line.

    CLIP_benchmark archives bring their own classes and templates. They measure only the model,
    with CLIP_benchmark's metric names: no domain is involved, no index is needed or changed, and
    the exit code is 0. See clipsearch help domains.

    \b
    Examples:
      clipsearch evaluate sample_data
      clipsearch evaluate test.csv --under ~/Pictures --html report.html
      clipsearch evaluate captions.tsv --json
      clipsearch evaluate wds_cifar10 --model ViT-B-16 --linear-probe
      clipsearch evaluate labelled/ --curve
    """
    if is_benchmark(labelled):
        if html is not None:
            raise UsageError(
                "--html reports on a domain, but CLIP_benchmark archives do not test one",
                hint="Use --json to get every measurement.",
            )
        choice = ModelChoice(model, device=device, offline=offline)
        return _benchmark(read_benchmark(labelled), choice, linear_probe, json, under, index)
    if linear_probe or model is not None:
        option = "--linear-probe" if linear_probe else "--model"
        raise UsageError(
            f"{option} needs CLIP_benchmark archives, and {labelled} has none",
            hint="Train classes with: clipsearch probe train. To test another model, make an index "
            "with it: clipsearch index --model.",
        )
    with Store.open_for_writing(directory_of_one([labelled], under, index)) as store:
        check(html, [store], force=force)
        test_set = read(labelled, Collection(store).domain)
        with progress() as bar:
            encoders = Encoders.of(store.spec, device)
            findings = evaluate(store, test_set, encoders, bar, curve=curve)
        root = store.root
    say_skipped(findings.skipped)
    if html is not None:
        from clipsearch.web.pages import evaluation

        hint = "The index has the result. Name another file and run the command again."
        write(html, evaluation.page(findings), force=force, hint=hint)
    if json:
        sys.stdout.buffer.write(json_line(evaluation_record(findings)))
    else:
        print(printable(_title(findings, root)), end="\n\n")
        for table in evaluation_tables(findings):
            show(table)
        for line in evaluation_lines(findings):
            print(printable(line))
    return ExitCode.OK if findings.tested == "tested" else ExitCode.NO_MATCH


def _benchmark(
    benchmark: Benchmark,
    choice: ModelChoice,
    linear_probe: bool,
    json: bool,
    under: Path | None,
    index: Path | None,
) -> int:
    files = _model_of(benchmark.folder, choice, under, index)
    encoders = choice.encoders(files)
    with progress() as bar:
        found = measure(benchmark, files.spec, encoders, linear_probe=linear_probe, progress=bar)
    say_skipped(found.skipped)
    if json:
        sys.stdout.buffer.write(json_line(benchmark_record(found)))
        return ExitCode.OK
    print(printable(benchmark_title(found)), end="\n\n")
    show(benchmark_table(found))
    for line in benchmark_lines(found):
        print(printable(line))
    return ExitCode.OK


def _model_of(
    folder: Path, choice: ModelChoice, under: Path | None, index: Path | None
) -> ModelFiles:
    """The model that the user names, the index's model, or the default."""
    if choice.is_named:
        if under or index:
            raise UsageError(
                "--model cannot be combined with --index or --under",
                hint="Leave out one of them. CLIPSEARCH_INDEX also sets --index.",
            )
        return choice.files(say)
    directory = directory_if_any([folder], under, index)
    if directory is None:
        return choice.files(say)
    with Store.open(directory) as store:
        return registry.locate(store.spec)


def _title(findings: Findings, root: Path) -> str:
    return (
        f"{findings.evaluation.source}: {findings.evaluation.images} images, for the "
        f"index of {root} ({findings.model.label}, domain {findings.domain.name})"
    )
