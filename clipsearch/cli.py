"""The command line: options in, exit code out, and the one place where errors are caught.

Only the top floor prints and only it chooses which store, model and encoder are used. What costs
time to import (torch above all) is imported by the command that needs it, when it needs it.
"""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from clipsearch import __version__
from clipsearch.errors import (
    ClipsearchError,
    ExitCode,
    IndexLocked,
    IndexNotFound,
    ModelMismatch,
    StoreError,
    UsageError,
)

# The matrices of one query are small: threads win nothing on them, and on a busy machine they wait
# for each other (0.5 s against 1.6 s). It must be said before numpy is loaded; torch has its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from clipsearch.output import Write
    from clipsearch.records import Encoder, IndexSummary, ModelFiles, ModelSpec, Vectors
    from clipsearch.store import Store


class _Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


class _ReaderGone(Exception):
    """Whoever was reading standard output has seen enough (head, say)."""


class _Commands(TyperGroup):
    """Our commands, whose interrupts and closed pipes typer would answer in its own way."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error
        except BrokenPipeError as error:
            raise _ReaderGone from error


app = typer.Typer(
    name="clipsearch",
    cls=_Commands,
    help="Find images in local folders by text or by example.",
    epilog="Exit codes: 0 hits, or the collection is up to date; 1 nothing matches; 2 an error; "
    "3 refused; 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@dataclass(frozen=True, slots=True)
class _ModelChoice:
    """What the user said about the model; None where they said nothing."""

    name: str | None
    pretrained: str | None
    device: str
    batch_size: int | None
    offline: bool


IndexOption = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="DIR",
        envvar="CLIPSEARCH_INDEX",
        help="Where the index lies, if not in FOLDER/.clipsearch.",
        show_default=False,
    ),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda",
        envvar="CLIPSEARCH_DEVICE",
        help="Where the model runs; auto takes a GPU if there is one.",
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"clipsearch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error comes from.")
    ] = False,
) -> None:
    """Find images in local folders by text or by example."""


@app.command("index")
def index_command(
    folders: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders of images.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            envvar="CLIPSEARCH_MODEL",
            help="An open_clip architecture, a model folder, hf-hub:ORG/REPO, or pocket. "
            "By default the index's own model; for a new index ViT-B-16, or pocket if its "
            "weights cannot be had.",
            show_default=False,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained",
            metavar="TAG|FILE",
            envvar="CLIPSEARCH_PRETRAINED",
            help="Published weights of the architecture, or a checkpoint file.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images per step of the model; by default what suits the device.",
            show_default=False,
        ),
    ] = None,
    index: IndexOption = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            help="Leave out files and folders of this name, or, with a slash, at this path. "
            "Hidden ones, node_modules and @eaDir always are. Repeatable.",
            show_default=False,
        ),
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Embed everything anew; needed to change the model."),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Accept that many images are gone, and forget them."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 if any image cannot be decoded.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels",
            min=1,
            metavar="N",
            help="Refuse images of more pixels; by default 256 million, or less on a small "
            "machine.",
            show_default=False,
        ),
    ] = None,
    offline: OfflineOption = False,
) -> int:
    """Bring the index of each folder up to date.

    Only new and changed images are embedded, and every batch is kept as soon as it is done:
    interrupt at will and run it again.

    \b
    Examples:
      clipsearch index ~/Pictures
      clipsearch index ./photos --exclude '*_thumb.jpg' --exclude raw/old
      clipsearch index /mnt/readonly/photos --index ~/photo-index
    """
    if index is not None and len(folders) > 1:
        raise UsageError(
            "--index names the place of one index, but there are several folders",
            hint="Index them one by one.",
        )
    choice = _ModelChoice(model, pretrained, device, batch_size, offline)
    code = ExitCode.OK
    for folder in folders:
        summary = _index_folder(folder, choice, index, exclude or [], rebuild, prune, max_pixels)
        if summary.unreadable or (strict and (summary.failed or summary.still_failed)):
            code = ExitCode.ERROR
    return code


def _index_folder(
    folder: Path,
    choice: _ModelChoice,
    index: Path | None,
    exclude: Sequence[str],
    rebuild: bool,
    prune: bool,
    max_pixels: int | None,
) -> "IndexSummary":
    from clipsearch import collections, images, output
    from clipsearch.indexing import update
    from clipsearch.store import REBUILD, Store

    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}", hint="index takes folders of images.")
    root = folder.resolve()
    holder = None if index else collections.holding(root)
    directory = holder or collections.directory_for(root, index)
    with ExitStack() as stack:
        try:
            store = stack.enter_context(Store.open_for_writing(directory))
        except IndexNotFound:
            files = _new_model(choice)
            store = stack.enter_context(Store.create(directory, root, files.spec))
        else:
            if index and store.root != root and store.root.exists():
                raise UsageError(
                    f"the index at {directory} is that of {store.root}, not of {root}",
                    hint="Name another place with --index.",
                )
            # An index without pictures is not bound to its model, which perhaps never worked.
            files = _model_for(store, choice, may_change=rebuild or store.is_empty())
            rebuild = rebuild or files.spec.fingerprint != store.spec.fingerprint
        collections.remember(directory, store.root)
        target = store
        if rebuild:
            target = stack.enter_context(_rebuilding(store, directory / REBUILD, files))
        under = b"" if rebuild else _relative(root, store.root)
        found = images.find(os.fsencode(store.root), exclude=exclude, under=under)
        progress = output.ProgressBar()
        try:
            summary = update(
                target,
                found,
                lambda: _load_encoder(files, choice),
                under=under,
                prune=prune,
                max_pixels=max_pixels,
                progress=progress,
            )
        finally:
            progress.close()
        if rebuild:
            store.replace_with(target)
    for line in output.summary_lines(str(folder), summary):
        _say(line)
    return summary


def _model_for(store: "Store", choice: _ModelChoice, *, may_change: bool) -> "ModelFiles":
    """The model for an existing index: its own, unless the user names it or may change it."""
    from clipsearch import models

    if choice.name is None and choice.pretrained is None:
        try:
            return models.locate(store.spec)
        except ModelMismatch:  # other weights under the same name
            if not may_change:
                raise
        spec = store.spec
        return models.resolve(spec.name, spec.pretrained, offline=choice.offline, notify=_say)
    files = _named_model(choice)
    same = files.spec.fingerprint == store.spec.fingerprint
    if files.spec != store.spec and (same or not may_change):
        with store.batch():
            store.set_spec(files.spec)
    return files


def _new_model(choice: _ModelChoice) -> "ModelFiles":
    from clipsearch import models

    if choice.name is None and choice.pretrained is None:
        return models.resolve_default(offline=choice.offline, notify=_say)
    return _named_model(choice)


def _named_model(choice: _ModelChoice) -> "ModelFiles":
    from clipsearch import models

    name = choice.name or models.DEFAULT_NAME
    return models.resolve(name, choice.pretrained, offline=choice.offline, notify=_say)


def _rebuilding(old: "Store", directory: Path, files: "ModelFiles") -> "Store":
    """The index that is to replace ``old``: an interrupted one is taken up again."""
    from clipsearch.store import Store

    if Store.exists(directory):
        unfinished = Store.open_for_writing(directory)
        if unfinished.spec.fingerprint == files.spec.fingerprint:
            return unfinished
        unfinished.close()
        shutil.rmtree(directory)
    return Store.create(directory, old.root, files.spec)


@app.command("search")
def search_command(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUERY]",
            help="What to look for, in English; - reads it from standard input.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", metavar="PATH", help="Look for images like this one.", show_default=False
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("-k", "--count", min=1, metavar="N", help="At most so many hits.")
    ] = 10,
    under: Annotated[
        Path | None,
        typer.Option("--under", metavar="PATH", help="Only in this folder.", show_default=False),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Read every embedding, where a large collection is read in part."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="End paths with NUL.")] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing; the exit code tells.")
    ] = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Print the images that match best, best first.

    \b
    Examples:
      clipsearch search "a red bicycle"
      clipsearch search --image holiday/beach.jpg -k 5
      clipsearch search "boats in a harbour" --under 2024 --json
      clipsearch search -0 "a cat" | xargs -0 cp -t cats/
    """
    from clipsearch import collections, models, retrieval
    from clipsearch.store import Store

    if (query is None) == (image is None):
        raise UsageError(
            "search takes a text or --image PATH, one of the two",
            hint='For example: clipsearch search "a red bicycle"',
        )
    if under is not None and not under.exists():
        raise UsageError(f"{under} does not exist", hint="--under takes a folder.")
    start = (under or Path()).resolve()
    with ExitStack() as stack:
        stores = [
            stack.enter_context(Store.open(directory))
            for directory in collections.find(start, index)
        ]
        spec = _shared_model(stores)
        choice = _ModelChoice(None, None, device, None, offline=True)
        prefix = _relative(start, stores[0].root)
        if under is not None and not prefix and not _holds(start, stores):
            raise UsageError(
                f"{under} is not in {stores[0].root}, which is what the index at {index} is of",
                hint="--under takes a folder of the collection.",
            )
        if image is not None:
            hits = retrieval.search_like(
                stores,
                image,
                lambda: _load_encoder(models.locate(spec), choice),
                count,
                prefix,
                exact=exact,
            )
        else:
            vector = _embed_text(models.locate(spec), choice, _checked(query))
            hits = retrieval.search(stores, vector, count, prefix, exact=exact)
        damaged = [store for store in stores if store.damage]
    for store in damaged:
        _heal(store)
    if not hits:
        if not quiet:
            _say("no match")
        return ExitCode.NO_MATCH
    if not quiet:
        write = _writer(json, null)
        write(hits, spec.label, sys.stdout.buffer)
    return ExitCode.OK


@app.command("status")
def status_command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="A folder.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    index: IndexOption = None,
) -> int:
    """Tell what is indexed, with which model, how many images failed and why."""
    from clipsearch import collections, models, output
    from clipsearch.store import Store

    start = (folder or Path()).resolve()
    for directory in collections.find(start, index):
        with Store.open(directory) as store:
            status = store.status()
        try:
            models.locate(status.spec)
            here = "on this machine"
        except ClipsearchError as error:
            here = f"cannot be used here: {error}"
        if json:
            sys.stdout.buffer.write(output.json_line(output.status_record(status)))
        else:
            print(output.status_text(status, here))
    return ExitCode.OK


@app.command("models")
def models_command(
    all: Annotated[
        bool, typer.Option("--all", help="Every architecture and its published weights.")
    ] = False,
) -> int:
    """Tell which models can be used, and which weights are on this machine and where.

    It also says how to bring weights to a machine without a network.
    """
    from clipsearch import models, output

    print(output.models_text(models.on_this_machine()))
    if all:
        from clipsearch.encoder import published_weights

        print("\nArchitectures and the published weights of each (--model NAME --pretrained TAG):")
        for name in models.architectures():
            tags = ", ".join(published_weights(name)) or "none; --pretrained FILE"
            print(f"  {name}: {tags}")
    return ExitCode.OK


def _checked(query: str | None) -> str:
    """The query's text, from standard input if it is ``-``."""
    try:
        text = sys.stdin.read() if query == "-" else query or ""
        text.encode()
    except UnicodeError as error:
        raise UsageError("the query is not valid text", hint="Use UTF-8.") from error
    if not text.strip():
        raise UsageError("the query is empty", hint="Say what to look for.")
    return text


def _say(message: str) -> None:
    """A message for people: on stderr, where it is in no pipeline's way."""
    print(f"clipsearch: {message}", file=sys.stderr, flush=True)


def _writer(json: bool, null: bool) -> "Write":
    from clipsearch import output

    if json:
        return output.write_json_lines
    if null:
        return output.write_null
    return output.write_table if sys.stdout.isatty() else output.write_lines


def _relative(path: Path, root: Path) -> bytes:
    """``path`` as the catalogue of ``root`` has it; nothing if it is the root or above it."""
    if not path.is_relative_to(root) or path == root:
        return b""
    return os.fsencode(path.relative_to(root).as_posix())


def _holds(folder: Path, stores: "Sequence[Store]") -> bool:
    """Whether all these collections lie in ``folder``."""
    return all(store.root.is_relative_to(folder) for store in stores)


def _shared_model(stores: "Sequence[Store]") -> "ModelSpec":
    """The one model of all these indexes: scores of different models cannot be compared."""
    specs = {store.spec.fingerprint: store.spec for store in stores}
    if len(specs) > 1:
        made = "; ".join(f"{store.root} ({store.spec.label})" for store in stores)
        raise UsageError(
            f"several folders here are indexed with different models: {made}",
            hint="Say which one you mean with --under FOLDER.",
        )
    return stores[0].spec


def _load_encoder(files: "ModelFiles", choice: _ModelChoice) -> "Encoder":
    from clipsearch.encoder import OpenClipEncoder

    return OpenClipEncoder(files, choice.device, choice.batch_size, notify=_say)


def _embed_text(files: "ModelFiles", choice: _ModelChoice, text: str) -> "Vectors":
    """Without torch wherever that can be done."""
    from clipsearch import text_encoder
    from clipsearch.models import weights
    from clipsearch.records import ModelFiles

    path = weights.mappable(files.weights)
    if path is not None and text_encoder.supports(files.spec):
        vectors = text_encoder.TextEncoder(ModelFiles(files.spec, path)).encode_texts([text])
    else:
        vectors = _load_encoder(files, choice).encode_texts([text])
    vector: Vectors = vectors[0]
    return vector


def _heal(store: "Store") -> None:
    """Write a vector file anew that a search could not use; the catalogue has all that it needs.

    Nobody waits for clusters here: a large collection is searched exactly until the next `index`.
    """
    from clipsearch.store import Store

    where = f"the vector file of {store.root} cannot be used ({store.damage})"
    try:
        with Store.open_for_writing(store.directory) as writer:
            writer.update_vector_index()
    except IndexLocked:
        return  # an index run is at work, and will write it
    except StoreError as error:
        _say(f"{where} nor written anew ({error}); the catalogue was searched instead")
        return
    _say(f"{where}; it was written anew from the catalogue")


def main() -> NoReturn:
    """Run the program and leave with its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A file name may hold what the terminal's encoding does not.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line: the boundary where every error becomes a message and a code."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(list(arguments), prog_name="clipsearch", standalone_mode=False)
        sys.stdout.flush()
        return int(code or ExitCode.OK)
    except ClipsearchError as error:
        if debug:
            traceback.print_exc()
        _complain(str(error), error.hint)
        return ExitCode.ERROR
    except typer.TyperException as error:
        if arguments:
            _complain(error.format_message(), "See: clipsearch --help")
        else:
            print(error.format_message(), file=sys.stderr)  # the whole help
        return ExitCode.ERROR
    except (_Interrupted, KeyboardInterrupt, typer.Abort):
        _say("interrupted; what was committed is kept, and the next run goes on from there")
        return ExitCode.INTERRUPTED
    except (_ReaderGone, BrokenPipeError):
        # Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        # Python's own exit code for this is 1, which would read as "no match".
        if debug:
            traceback.print_exc()
        else:
            _complain(
                f"unexpected {type(error).__name__}: {error}",
                "This is a bug. Run it again with --debug and report what it prints.",
            )
        return ExitCode.ERROR


def _interrupt(signal_number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _complain(message: str, hint: str) -> None:
    from clipsearch.output import printable

    _say(f"error: {printable(message)}")
    if hint:
        print(f"  {printable(hint)}", file=sys.stderr, flush=True)
