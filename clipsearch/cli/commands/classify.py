"""``clipsearch classify``."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli import completion
from clipsearch.cli.app import DeviceOption, IndexOption, OfflineOption, commands, progress, say
from clipsearch.cli.options.collection import (
    UnderOption,
    directory_of_one,
    say_skipped,
)
from clipsearch.cli.options.model import (
    ModelChoice,
    load_encoder,
    load_text_encoder,
    new_model,
)
from clipsearch.cli.render.json_lines import json_line
from clipsearch.errors import ExitCode, IndexNotFound, UsageError

if TYPE_CHECKING:
    from clipsearch.cli.render.classification import FolderResult
    from clipsearch.domain.taxonomy import Domain
    from clipsearch.evaluation.classify import Rank
    from clipsearch.records import ModelSpec, TextEncoder
    from clipsearch.storage.catalog import Store

app = commands()


@dataclass(frozen=True, slots=True)
class _Classes:
    """What pictures may be given to."""

    by: str
    """Whose classes they are: the domain's name, ``@`` and a probe's name, or ``texts``."""
    count: int
    rank: "Rank"
    class_of: Callable[[str], str | None]
    """The class that a folder of this name would be of."""


@app.command("classify")
def classify_command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Pictures and folders; by default what is indexed in the current folder.",
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
            help="So many classes a picture; by default the first, or all texts.",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="Rank these captions or labels, one a line, in the classes' place; - reads "
            "standard input.",
            show_default=False,
        ),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            "--probe",
            autocompletion=completion.probes,
            metavar="NAME",
            help="The classes of a trained probe, see clipsearch probe.",
            show_default=False,
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            autocompletion=completion.domains,
            metavar="FILE|NAME",
            help="The classes of this domain and not of the index's own.",
            show_default=False,
        ),
    ] = None,
    confusion: Annotated[
        bool,
        typer.Option("--confusion", help="Count the first classes against the folders' names."),
    ] = False,
    under: UnderOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a picture.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="A CSV file with a header line.")] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
    offline: OfflineOption = False,
) -> int:
    """Label pictures with the classes of a domain, of a probe, or of a list of your own.

    Prints the path, the class and its probability, separated by tabs. The probabilities are
    shares among these classes alone: a picture that shows none of them is still given to one.
    Where the index was evaluated on labels, they are calibrated on these.
    Pictures that the index has are not read again; without an index, the default model and the
    default domain are used. Exit code 1 if there are no pictures, 2 if some cannot be decoded.

    \b
    Examples:
      clipsearch classify
      clipsearch classify holiday/beach.jpg -k 5
      clipsearch classify sample_data --confusion
      clipsearch classify beach.jpg --texts captions.txt
      clipsearch classify --probe defects --csv > labels.csv
    """
    from clipsearch.cli.render.classification import (
        by_folder,
        classified_csv,
        classified_json,
        classified_lines,
        classified_table,
    )
    from clipsearch.cli.render.table import show
    from clipsearch.evaluation import classify
    from clipsearch.models import registry
    from clipsearch.storage.catalog import Store

    if sum(chosen is not None for chosen in (texts, probe, domain)) > 1:
        raise UsageError(
            "--texts, --probe and --domain each name the classes", hint="Choose one of them."
        )
    if confusion and (texts is not None or csv):
        raise UsageError(
            "--confusion compares classes with folders; it goes with neither --texts nor --csv",
            hint="For example: clipsearch classify sample_data --confusion",
        )
    given = None if texts is None else _texts(texts)
    choice = ModelChoice(device=device, offline=offline)
    with ExitStack() as stack:
        directory = _directory(paths or [], under, index)
        store = stack.enter_context(Store.open(directory)) if directory else None
        files = registry.locate(store.spec) if store else new_model(choice)
        unreadable: list[tuple[bytes, str]] = []
        if paths or store is None:
            pictures, unreadable = classify.gathered(paths or [], store)
        else:
            pictures = classify.indexed(store, (under or Path()).resolve())
        say_skipped(unreadable)
        if not pictures:
            say("no pictures here")
            return ExitCode.ERROR if unreadable else ExitCode.NO_MATCH
        classes = _classes(
            given, probe, domain, store, files.spec, lambda: load_text_encoder(files, choice)
        )
        with progress() as bar:
            pictures, images, skipped = classify.embeddings(
                pictures, files.spec, store, lambda: load_encoder(files, choice), bar
            )
    say_skipped(skipped)
    k = count or (classes.count if given else 1)
    found = classify.classified(pictures, images, classes.rank, k)
    out = sys.stdout.buffer
    if confusion:
        _write_confusion(by_folder(found, classes.class_of), json)
    elif json:
        classified_json(found, files.spec.label, classes.by, out)
    elif csv:
        classified_csv(found, out)
    elif sys.stdout.isatty():
        show(classified_table(found))
    else:
        classified_lines(found, out)
    return ExitCode.ERROR if skipped or unreadable else ExitCode.OK


def _directory(paths: list[Path], under: Path | None, index: Path | None) -> Path | None:
    """Where the index is; None if there are pictures and no index, and none was named."""
    try:
        return directory_of_one(paths, under, index)
    except IndexNotFound:
        if not paths or under or index:
            raise
        return None


def _classes(
    texts: list[str] | None,
    probe: str | None,
    domain: str | None,
    store: "Store | None",
    spec: "ModelSpec",
    load: "Callable[[], TextEncoder]",
) -> _Classes:
    from clipsearch.domain import taxonomy, zero_shot
    from clipsearch.evaluation import probes
    from clipsearch.storage.collection import Collection, embedded_texts

    known = Collection(store) if store else None
    scale = known.logit_scale if known else zero_shot.LOGIT_SCALE
    if texts is not None:
        vectors = zero_shot.encode_all(load(), texts)
        return _Classes(
            "texts",
            len(texts),
            lambda images, k: zero_shot.classify(images, vectors, texts, k, scale),
            lambda folder: None,
        )
    if probe is not None:
        if store is None:
            raise UsageError(
                "a probe is kept with an index, and nothing is indexed here",
                hint="Name the index with --index DIR.",
            )
        trained = probes.ready(store, probe)
        by_name = {taxonomy.folded(name): name for name in trained.classes}
        return _Classes(
            f"@{probe}",
            len(trained.classes),
            trained.classify,
            lambda folder: by_name.get(taxonomy.folded(folder)),
        )
    own = known if domain is None else None
    chosen = own.domain if own else taxonomy.load(domain or taxonomy.DEFAULT)
    kept = own.texts if own else None
    classes = (kept or embedded_texts(chosen, spec, load)).gate.classes
    return _Classes(
        chosen.name,
        len(chosen.classes),
        lambda images, k: zero_shot.classify(images, classes, chosen.class_names, k, scale),
        lambda folder: _class_name(chosen, folder),
    )


def _class_name(domain: "Domain", folder: str) -> str | None:
    at = domain.find_class(folder)
    return None if at is None else domain.classes[at].name


def _texts(source: str) -> list[str]:
    """The lines of a file or of standard input that are not blank, checked by the policy."""
    from clipsearch.domain import policy

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
        raise UsageError(f"there is no text in {source}", hint="Give one caption or label a line.")
    for text in texts:
        policy.check(text)
    foreign = [(text, note) for text in texts if (note := policy.language_note(text))]
    if foreign:
        text, note = foreign[0]
        say(f"'{text}': {note}")
    return texts


def _write_confusion(results: "list[FolderResult]", json: bool) -> None:
    from clipsearch.cli.render.classification import folder_line, folder_record, folder_table
    from clipsearch.cli.render.table import show

    if json:
        for result in results:
            sys.stdout.buffer.write(json_line(folder_record(result)))
        return
    show(folder_table(results))
    print(folder_line(results))
