"""``clipsearch probe``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli import completion
from clipsearch.cli.app import DeviceOption, IndexOption, commands, progress, say
from clipsearch.cli.options.collection import UnderOption, directory_of_one, say_skipped
from clipsearch.cli.options.files import ForceOption, check, write
from clipsearch.cli.render.curve import curve_record, curve_table
from clipsearch.cli.render.json_lines import json_line
from clipsearch.cli.render.probes import probe_lines, probe_record
from clipsearch.cli.render.table import show
from clipsearch.errors import ExitCode, IndexUnreadable
from clipsearch.evaluation import probe_file, probes
from clipsearch.evaluation.curve import Curve
from clipsearch.evaluation.probes import KeptProbe
from clipsearch.evaluation.train import train_on
from clipsearch.evaluation.wording import Wording
from clipsearch.models.load import Encoders
from clipsearch.search import saved
from clipsearch.storage.catalog import Store
from clipsearch.text import printable

_HELP = """Train your own classes on labeled images, and manage them.

\b
Examples:
  clipsearch probe train defects/ --name defects
  clipsearch probe list
  clipsearch search @defects/scratch
"""

app = commands(_HELP)

NameArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The name of the probe.", autocompletion=completion.probes),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per probe.")]


@app.command("train")
def train_command(
    labelled: Annotated[
        Path,
        typer.Argument(
            metavar="LABELED",
            help="A folder with one folder per class, or a CSV or TSV file with the columns "
            "path,label.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            "--name", metavar="NAME", help="The name of the new probe.", show_default=False
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--words",
            metavar="CLASS=TEXT",
            help="Describe a class with TEXT instead of its name; with an empty TEXT, use no words "
            "for it. Adds CLASS if it has no images. Repeatable.",
            show_default=False,
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            "--rename",
            metavar="LABEL=NAME",
            help="Use NAME for the class of images labeled LABEL. Repeatable.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Also measure the accuracy with 1, 2, 4, 8, 16 and all images per class.",
        ),
    ] = False,
    json: JsonOption = False,
    under: UnderOption = None,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Train your own classes on labeled images, and keep the probe in the index.

    The classes are the folder names or the labels. A probe starts as zero-shot classification
    with these words. One image per class is enough to change it; with more images the words count
    less. Prints the accuracy of probes on images that they were not trained on, and the accuracy
    of the words alone (zero-shot). A probe that is no better than guessing, or worse than the
    words, is not kept (exit code 2). Otherwise it replaces any probe of the same name.

    \b
    Examples:
      clipsearch probe train defects/ --name defects
      clipsearch probe train defects/ --name defects --words "scratch=a thin bright line on metal"
      clipsearch classify --probe defects
      clipsearch search @defects/scratch
    """
    probes.check_name(name)
    saved.require_no_query(name)
    wording = Wording.of(rename or (), words or ())
    with Store.open_for_writing(directory_of_one([labelled], under, index)) as store:
        encoders = Encoders.of(store.spec, device)
        with progress() as bar:
            trained = train_on(labelled, name, store, encoders, bar, wording, curve=curve)
        say_skipped(trained.skipped)
        kept = trained.kept
        for note in kept.notes:
            say(printable(note))
        if kept.recall is not None and kept.recall.low <= kept.guessing:
            say(f"the probe '{name}' may be no better than guessing; train it on more images")
        elif kept.held_out.value < kept.zero_shot.value:
            say(f"the probe '{name}' may be no better than its words; train it on more images")
        _write(kept, store, json, trained.curve)
    return ExitCode.OK


@app.command("list")
def list_command(
    json: JsonOption = False, under: UnderOption = None, index: IndexOption = None
) -> int:
    """List the probes of an index and their accuracy.

    If a probe is damaged, it is reported, the others are listed, and the exit code is 2.

    \b
    Examples:
      clipsearch probe list
      clipsearch probe list --under ~/Pictures --json
    """
    code = ExitCode.OK
    with Store.open(directory_of_one([], under, index)) as store:
        names = probes.names(store)
        for name in names:
            try:
                kept = probes.load(store, name)
            except IndexUnreadable as error:
                say(printable(f"{error}. {error.hint}"))
                code = ExitCode.ERROR
            else:
                _write(kept, store, json)
    if not names:
        say("no probes in this index; train one with: clipsearch probe train LABELED --name NAME")
        return ExitCode.NO_MATCH
    return code


@app.command("show")
def show_command(
    name: NameArgument,
    json: JsonOption = False,
    under: UnderOption = None,
    index: IndexOption = None,
) -> int:
    """Show what a probe was trained on, and its accuracy.

    \b
    Examples:
      clipsearch probe show defects
    """
    with Store.open(directory_of_one([], under, index)) as store:
        _write(probes.load(store, name), store, json)
    return ExitCode.OK


@app.command("remove")
def remove_command(name: NameArgument, under: UnderOption = None, index: IndexOption = None) -> int:
    """Remove a probe from the index.

    \b
    Examples:
      clipsearch probe remove defects
    """
    with Store.open_for_writing(directory_of_one([], under, index)) as store:
        probes.remove(store, name)
    say(f"removed the probe '{name}'")
    return ExitCode.OK


@app.command("export")
def export_command(
    name: NameArgument,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The file to write.", show_default=False),
    ],
    force: ForceOption = False,
    under: UnderOption = None,
    index: IndexOption = None,
) -> int:
    """Write a probe to a file, for use in other indexes of the same model.

    The safetensors file holds the weights and intercepts of the classes. Its metadata holds the
    class names, the model's fingerprint and the probe's accuracy.

    \b
    Examples:
      clipsearch probe export defects defects.safetensors
    """
    with Store.open(directory_of_one([], under, index)) as store:
        check(file, [store], option="FILE", force=force)
        content = probe_file.to_bytes(probes.load(store, name))
    write(file, content, force=force)
    return ExitCode.OK


@app.command("import")
def import_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A file from clipsearch probe export.", show_default=False
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="The name to keep it under (default: its name in FILE).",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    under: UnderOption = None,
    index: IndexOption = None,
) -> int:
    """Add a probe from a file to the index, replacing any probe of the same name.

    A probe that was trained for another model is refused (exit code 2).

    \b
    Examples:
      clipsearch probe import defects.safetensors --under ~/Pictures
    """
    with Store.open_for_writing(directory_of_one([], under, index)) as store:
        kept = probe_file.read(file, store, name)
        saved.require_no_query(kept.name)
        probes.keep(store, kept)
        _write(kept, store, json)
    return ExitCode.OK


def _write(kept: KeptProbe, store: Store, json: bool, curve: Curve | None = None) -> None:
    if kept.model != store.spec.fingerprint:
        say(f"the probe '{kept.name}' cannot be used here: it was trained for another model")
    if json:
        more = {"curve": curve_record(curve)} if curve else {}
        sys.stdout.buffer.write(json_line(probe_record(kept) | more))
        return
    print("\n".join(probe_lines(kept)))
    if curve:
        print()
        show(curve_table(curve))
        print(curve.said)
