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

_HELP = """Train classes of your own on labelled images, and look after them.

\b
Examples:
  clipsearch probe train defects/ --name defects
  clipsearch probe list
  clipsearch search @defects/scratch
"""

app = commands(_HELP)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The probe.", autocompletion=completion.probes)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a probe.")]


@app.command("train")
def train_command(
    labelled: Annotated[
        Path,
        typer.Argument(
            metavar="LABELLED",
            help="A folder of folders, each named after its class, or a CSV or TSV file with the "
            "columns path,label.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What to call it.", show_default=False)
    ],
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--words",
            metavar="CLASS=TEXT",
            help="Describe a class in your own words, which stand in its name's place; without a "
            "TEXT it has none. A CLASS without images is added. Repeatable.",
            show_default=False,
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            "--rename",
            metavar="LABEL=NAME",
            help="Call the class of a label by another name. Repeatable.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Also measure what fewer images bring: 1, 2, 4, 8, 16 and all of each class.",
        ),
    ] = False,
    json: JsonOption = False,
    under: UnderOption = None,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Learn classes of your own from labelled images; the index keeps what was learned.

    The classes are the folders' names or the labels, whatever they are. A probe begins as
    zero-shot classification by these words, and one image of a class is enough to move it; with
    more images the words count less. Printed is how many images are got right by probes that
    never saw them, and how many by the words alone (zero-shot). A probe that is no better than
    guessing, or worse than the words, is not kept (exit code 2); any other replaces one of the
    same name.

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
            say(f"the probe '{name}' may be no better than guessing; more images would tell")
        elif kept.held_out.value < kept.zero_shot.value:
            say(f"the probe '{name}' may be no better than its words; more images would tell")
        _write(kept, store, json, trained.curve)
    return ExitCode.OK


@app.command("list")
def list_command(
    json: JsonOption = False, under: UnderOption = None, index: IndexOption = None
) -> int:
    """List the probes of an index, and what each is worth.

    One that is damaged is named, the others are listed, and the exit code is 2.

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
        say("no probes here; train one with: clipsearch probe train LABELLED --name NAME")
        return ExitCode.NO_MATCH
    return code


@app.command("show")
def show_command(
    name: NameArgument,
    json: JsonOption = False,
    under: UnderOption = None,
    index: IndexOption = None,
) -> int:
    """Tell what a probe was trained on, and what it is worth.

    \b
    Examples:
      clipsearch probe show defects
    """
    with Store.open(directory_of_one([], under, index)) as store:
        _write(probes.load(store, name), store, json)
    return ExitCode.OK


@app.command("remove")
def remove_command(name: NameArgument, under: UnderOption = None, index: IndexOption = None) -> int:
    """Forget a probe.

    \b
    Examples:
      clipsearch probe remove defects
    """
    with Store.open_for_writing(directory_of_one([], under, index)) as store:
        probes.remove(store, name)
    say(f"the probe '{name}' is removed")
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
    """Write a probe to a file, for other indexes of the same model.

    It is a safetensors file: the weights and intercepts of the classes, and as metadata their
    names, the model's fingerprint and what the probe is worth.

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
        typer.Argument(metavar="FILE", help="What `probe export` has written.", show_default=False),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Another name for it here.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
    under: UnderOption = None,
    index: IndexOption = None,
) -> int:
    """Keep a probe from a file with this index; it replaces one of the same name.

    A probe of another model than the index's is refused (exit code 2).

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
        say(f"the probe '{kept.name}' is of no use here: it was trained for another model")
    if json:
        more = {"curve": curve_record(curve)} if curve else {}
        sys.stdout.buffer.write(json_line(probe_record(kept) | more))
        return
    print("\n".join(probe_lines(kept)))
    if curve:
        print()
        show(curve_table(curve))
        print(curve.said)
