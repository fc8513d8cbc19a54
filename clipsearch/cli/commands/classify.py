"""``clipsearch classify``."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli import completion
from clipsearch.cli.app import DeviceOption, IndexOption, OfflineOption, commands, progress, say
from clipsearch.cli.options.collection import (
    UnderOption,
    directory_if_any,
    directory_of_one,
    say_skipped,
)
from clipsearch.cli.render.classification import (
    FolderResult,
    by_folder,
    classified_csv,
    classified_json,
    classified_lines,
    classified_table,
    folder_line,
    folder_record,
    folder_table,
)
from clipsearch.cli.render.json_lines import json_line
from clipsearch.cli.render.table import show
from clipsearch.domain import policy
from clipsearch.errors import ExitCode, UsageError
from clipsearch.evaluation.classify import Labels, classify, pictures_of
from clipsearch.models.choice import ModelChoice
from clipsearch.storage.catalog import Store
from clipsearch.text import shortened

app = commands()


@app.command("classify")
def classify_command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Images and folders (default: the indexed images in the current folder).",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--count",
            min=1,
            metavar="N",
            help="Classes per image (default: 1, or all when --texts is given).",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="Rank the captions or labels in this file, one per line, instead of classes; - "
            "reads standard input.",
            show_default=False,
        ),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            "--probe",
            autocompletion=completion.probes,
            metavar="NAME",
            help="Use the classes of a trained probe; see clipsearch probe.",
            show_default=False,
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            autocompletion=completion.domains,
            metavar="FILE|NAME",
            help="Use the classes of this domain (default: the index's own).",
            show_default=False,
        ),
    ] = None,
    confusion: Annotated[
        bool,
        typer.Option("--confusion", help="Compare each image's top class with its folder's name."),
    ] = False,
    under: UnderOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.")] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
    offline: OfflineOption = False,
) -> int:
    """Label images with the classes of a domain, of a probe, or of your own list.

    Prints the path, the class and its probability, separated by tabs. Probabilities are relative
    to these classes only: an image that shows none of them still gets one. If the index was
    evaluated on labeled images, they are calibrated on those. Indexed images are not read again.
    Without an index, the default model and the default domain are used. Exit code 1 if there are
    no images, 2 if some cannot be decoded.

    \b
    Examples:
      clipsearch classify
      clipsearch classify holiday/beach.jpg -k 5
      clipsearch classify sample_data --confusion
      clipsearch classify beach.jpg --texts captions.txt
      clipsearch classify --probe defects --csv > labels.csv
    """
    if sum(chosen is not None for chosen in (texts, probe, domain)) > 1:
        raise UsageError(
            "--texts, --probe and --domain cannot be combined", hint="Choose one of them."
        )
    if confusion and (texts is not None or csv):
        raise UsageError(
            "--confusion cannot be combined with --texts or --csv",
            hint="For example: clipsearch classify sample_data --confusion",
        )
    if json and csv:
        raise UsageError("--json cannot be combined with --csv", hint="Choose one of them.")
    if confusion and count is not None:
        raise UsageError(
            "--confusion uses only the top class of each image, but -k asks for several",
            hint="Leave one of them out.",
        )
    labels = Labels(None if texts is None else _texts(texts), probe, domain)
    with ExitStack() as stack:
        about = directory_if_any if paths else directory_of_one
        directory = about(paths or [], under, index)
        store = stack.enter_context(Store.open(directory)) if directory else None
        pictures, unreadable = pictures_of(paths or [], store, under or Path())
        say_skipped(unreadable)
        if not pictures:
            say("no images found")
            return ExitCode.ERROR if unreadable else ExitCode.NO_MATCH
        model = ModelChoice(device=device, offline=offline)
        with progress() as bar:
            done = classify(pictures, labels, store, model, k=count, progress=bar, notify=say)
    say_skipped(done.skipped)
    out = sys.stdout.buffer
    if confusion:
        _write_confusion(by_folder(done.found, done.classes.class_of), json)
    elif json:
        classified_json(done.found, done.model.label, done.classes.by, out)
    elif csv:
        classified_csv(done.found, out)
    elif sys.stdout.isatty():
        show(classified_table(done.found))
    else:
        classified_lines(done.found, out)
    return ExitCode.ERROR if done.skipped or unreadable else ExitCode.OK


def _texts(source: str) -> list[str]:
    """The non-blank lines of a file or of standard input."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise UsageError(
            f"cannot read {source}: {error.strerror}", hint="--texts takes a file, or -."
        ) from error
    except UnicodeError as error:
        name = "standard input" if source == "-" else source
        raise UsageError(f"{name} is not UTF-8 text", hint="Save it as UTF-8.") from error
    texts = list(dict.fromkeys(line for line in lines if line))
    if not texts:
        raise UsageError(f"{source} is empty", hint="Write one caption or label per line.")
    foreign = [(text, note) for text in texts if (note := policy.language_note(text))]
    if foreign:
        text, note = foreign[0]
        say(f"'{shortened(text)}': {note}")
    return texts


def _write_confusion(results: list[FolderResult], json: bool) -> None:
    if json:
        for result in results:
            sys.stdout.buffer.write(json_line(folder_record(result)))
        return
    show(folder_table(results))
    print(folder_line(results))
