"""``clipsearch evaluate``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, commands, progress, say
from clipsearch.cli.options.collection import UnderOption, directory_of_one, say_skipped
from clipsearch.cli.options.files import ForceOption, check, write
from clipsearch.cli.render.evaluation import evaluation_lines, evaluation_record, evaluation_tables
from clipsearch.cli.render.json_lines import json_line
from clipsearch.cli.render.table import show
from clipsearch.errors import ExitCode
from clipsearch.evaluation.evaluate import Findings, evaluate
from clipsearch.evaluation.labelled import read
from clipsearch.models.load import Encoders
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.text import printable

app = commands()


@app.command("evaluate")
def evaluate_command(
    labelled: Annotated[
        Path,
        typer.Argument(
            metavar="LABELLED",
            help="A folder of class-named folders, or a CSV or TSV file with the columns "
            "path,label or path,caption.",
            show_default=False,
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Also write one page with the confusion matrix and the pictures got wrong.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Also measure how accurate a probe gets with 1, 2, 4, 8, 16 and all of these "
            "pictures of each class.",
        ),
    ] = False,
    force: ForceOption = False,
    under: UnderOption = None,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Test an index's model and domain on labelled pictures; the index keeps the result.

    Pictures that the index has are not read again. An index is tested once an evaluation of its
    model and domain has met the domain's pass marks, which say how much must be right. Exit code 0
    if it has, 1 if it has not. One of fewer pictures than they ask for changes nothing. In a file a
    picture may have several labels, one a line.

    \b
    Examples:
      clipsearch evaluate sample_data
      clipsearch evaluate test.csv --under ~/Pictures --html report.html
      clipsearch evaluate captions.tsv --json
      clipsearch evaluate labelled/ --curve
    """
    with Store.open_for_writing(directory_of_one([labelled], under, index)) as store:
        check(html, [store], force=force)
        test_set = read(labelled, Collection(store).domain)
        with progress() as bar:
            encoders = Encoders.of(store.spec, device, say)
            findings = evaluate(store, test_set, encoders, bar, curve=curve)
        root = store.root
    say_skipped(findings.skipped)
    if html is not None:
        from clipsearch.web.pages import evaluation

        hint = "The index has the result; name another file and run the same command again."
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


def _title(findings: Findings, root: Path) -> str:
    return (
        f"{findings.evaluation.source}: {findings.evaluation.images} pictures, for the "
        f"index of {root} ({findings.model.label}, domain {findings.domain.name})"
    )
