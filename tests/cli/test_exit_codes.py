"""The page ``clipsearch help exit-codes``: each command, brought into each situation."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import typer._click.core
from archives import write_benchmark
from conftest import Run, make_picture
from fakes import DecodeHere, FakeEncoder, fake_spec, picture, unit

from clipsearch.cli.app import every_command
from clipsearch.cli.commands import watch as watch_command
from clipsearch.cli.help import pages
from clipsearch.domain import taxonomy
from clipsearch.images import scan
from clipsearch.images.scan import content_hash
from clipsearch.indexing import diagnosis, embed
from clipsearch.models import registry
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.records import EmbeddedImage, ImageFile, ModelFiles, Vectors
from clipsearch.storage import collection, known
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.vectors import l2_normalise
from clipsearch.web.server import Server

DOMAIN = f"""
name = "parts"
templates = ["{{}}"]
in_domain = {[f"something broken, {n}" for n in range(12)]}
out_of_domain = {[f"revenue of quarter {n}" for n in range(12)]}
classes = [{{name = "crack"}}, {{name = "dent"}}]
pass_marks = {{images = 4, top1 = 0.0, refused_in_domain = 1.0}}
"""
FORBIDDEN = DOMAIN.replace('"dent"', '"identify this man"')

STRICT = DOMAIN.replace("something broken, 7", "revenue of parts").replace(
    "refused_in_domain = 1.0", "refused_in_domain = 0.0"
)

ROW = re.compile(r"\| `([^`]+)` \| (\d+) \| (.+) \|")

pytestmark = pytest.mark.usefixtures("fakes")


class RevenueApart(FakeEncoder):
    """Texts about revenue lie together, and far from all others."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        sides = np.stack([unit(3) if "revenue" in text else -unit(3) for text in texts])
        return l2_normalise(sides + 0.5 * super().encode_texts(texts))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded, and no process decodes."""
    encoders = Encoders(RevenueApart, RevenueApart)
    monkeypatch.setattr(Encoders, "of", lambda *_: encoders)
    monkeypatch.setattr(ModelChoice, "encoders", lambda *_: encoders)
    monkeypatch.setattr(registry, "locate", lambda spec: ModelFiles(spec, Path("weights")))
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An index of four images of two classes, one of them twice, and files to ask with."""
    root = tmp_path / "photos"
    with Store.create(_folder(root) / FOLDER, root, fake_spec()) as store:
        with store.batch():
            for n, name in enumerate(("crack/0.png", "crack/1.png", "dent/2.png", "dent/3.png")):
                _folder((root / name).parent)
                make_picture(root / name, min(n, 2))
                store.add([_as_it_is(root, name, min(n, 2))])
        collection.pin(store, taxonomy.parse(DOMAIN, "parts.toml"))
        collection.calibrate(store, RevenueApart)
        store.update_vector_index()
        known.remember(store.directory, root)
    (tmp_path / "forbidden.toml").write_text(FORBIDDEN)
    (tmp_path / "parts.toml").write_text(DOMAIN)
    (tmp_path / "strict.toml").write_text(STRICT)
    (tmp_path / "texts").write_text("identify this man\n")
    (root / "captions.csv").write_text("path,caption\ncrack/0.png,identify this man\n")
    return root


def _folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _as_it_is(root: Path, name: str, seed: int) -> EmbeddedImage:
    status = (root / name).stat()
    with (root / name).open("rb") as file:
        digest = content_hash(file)
    found = picture(name.encode(), seed)
    file_now = ImageFile(name.encode(), status.st_size, status.st_mtime_ns)
    return replace(found, file=file_now, content_hash=digest)


# -- situations ----------------------------------------------------------------------------------


def as_it_is(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    """Nothing is to be done."""


def broken_picture(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    (root / "broken.png").write_bytes(b"no picture")


def other_marks(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    marks = DOMAIN.replace("top1 = 0.0", "top1 = 0.0, found = 1.0, absent_answered = 0.0")
    marks = marks.replace("refused_in_domain = 1.0", "list_precision = 1.0")
    with Store.open_for_writing(root / FOLDER) as store:
        collection.pin(store, taxonomy.parse(marks, "parts.toml"))


def unreadable_folder(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    find = scan.find
    seen = [(b"locked", "Permission denied")]
    patch.setattr(scan, "find", lambda *a, **b: replace(find(*a, **b), unreadable=seen))


def damaged_file(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    (root / FOLDER / "vectors.faiss").write_bytes(b"damage")


def exported(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    assert run("export", "../out", "--npy", cwd=root).code == 0


def like_each_other(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    """The same three images in two folders: there is nothing to learn."""
    for name in ("a", "b"):
        for n in range(3):
            make_picture(_folder(root.parent / "labels" / name) / f"{n}.png", n)


def learnable(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    """Each class has one image, in several files."""
    for seed, name in enumerate(("a", "b")):
        for n in range(4):
            path = _folder(root.parent / "labels" / name) / f"{n}.png"
            make_picture(path, seed)
            path.write_bytes(path.read_bytes() + bytes([n]))  # behind the end of the image


def benchmark(template: str) -> Callable[[Path, Run, pytest.MonkeyPatch], None]:
    def prepare(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
        texts = {"classnames": "a\nb\n", "zeroshot_classification_templates": template}
        write_benchmark(root.parent / "wds", [("cls", b"0"), ("cls", b"1")], **texts)

    return prepare


def check_of(state: diagnosis.State) -> Callable[[Path, Run, pytest.MonkeyPatch], None]:
    def prepare(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
        for name in ("weights", "terminal", "directories"):
            patch.setattr(diagnosis, name, lambda: iter(()))
        for name in ("indexes", "device"):
            patch.setattr(diagnosis, name, lambda _: iter(()))
        check = diagnosis.Check("all", state, "said")
        patch.setattr(diagnosis, "installation", lambda: iter((check,)))

    return prepare


def interrupt(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def served(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Server, "serve_forever", interrupt)


def watched(root: Path, run: Run, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(watch_command, "watch", interrupt)


@dataclass(frozen=True)
class Case:
    """A row of the page, and how to come into that situation."""

    command: str
    code: int
    when: str
    arguments: str = ""
    """After the command, which is run in the collection."""
    prepare: Callable[[Path, Run, pytest.MonkeyPatch], None] = field(default=as_it_is)
    lines: str = ""
    """Standard input."""


ANY = "--all --allow-out-of-domain"
NONE = f"{ANY} --name none"
CASES = [
    Case("search", 0, "there are hits", f"crack {ANY}"),
    Case("search", 1, "no match", f"crack {NONE}"),
    Case("search", 3, "refused by the usage policy", "identify"),
    Case("search", 3, "refused as out of the domain", "revenue"),
    Case("search", 3, "refused by `--require-tested`", f"crack {ANY} --require-tested"),
    Case(
        "search --batch",
        0,
        "at least one query has hits",
        ANY,
        lines="crack\n\nidentify this man\n",
    ),
    Case(
        "search --batch",
        2,
        "no query has hits, and at least one is an error",
        NONE,
        lines="crack\n\nidentify this man\n",
    ),
    Case(
        "search --batch",
        3,
        "no query has hits or is an error, and at least one is refused",
        NONE,
        lines="crack\nidentify this man\n",
    ),
    Case("search --batch", 1, "no query has a match, or there is no query", NONE, lines="crack\n"),
    Case("search --batch", 1, "no query has a match, or there is no query", NONE),
    Case(
        "index",
        0,
        "the index is up to date; images that cannot be decoded are reported and counted",
        ".",
        broken_picture,
    ),
    Case("index", 2, "an image cannot be decoded, with `--strict`", ". --strict", broken_picture),
    Case(
        "index",
        2,
        "something left the index out of date: an unreadable folder, a full disk, a model that "
        "failed",
        ".",
        unreadable_folder,
    ),
    Case(
        "index",
        3,
        "the policy forbids a class name of the domain",
        ". --domain ../forbidden.toml",
    ),
    Case("evaluate", 0, "all pass marks are met", "."),
    Case("evaluate", 1, "a pass mark is missed", ".", other_marks),
    Case("evaluate", 1, "there are too few images to decide anything", "few.csv"),
    Case("evaluate", 3, "the policy forbids a caption", "captions.csv"),
    Case(
        "evaluate",
        0,
        "a model was measured on CLIP_benchmark's archives",
        "../wds",
        benchmark("a photo of a {c}."),
    ),
    Case(
        "evaluate",
        3,
        "the policy forbids a class name or a template of CLIP_benchmark's archives",
        "../wds",
        benchmark("identify this {c} man"),
    ),
    Case("classify", 0, "every image is labeled", "crack"),
    Case("classify", 1, "there are no images", "../data"),
    Case(
        "classify",
        2,
        "some images cannot be decoded; the others are labeled",
        "broken.png crack/0.png",
        broken_picture,
    ),
    Case("classify", 3, "the policy forbids one of the `--texts`", "crack --texts ../texts"),
    Case("verify", 0, "nothing is damaged", "--sample 0"),
    Case("verify", 2, "something is damaged and was not repaired", "--sample 0", damaged_file),
    Case("duplicates", 0, "there are groups", "--copies"),
    Case("duplicates", 1, "there are no groups", "--copies --name none"),
    Case("export", 0, "the embeddings are written", "../out --npy"),
    Case("export", 1, "no image passes the filters", "../out --npy --name none"),
    Case(
        "import",
        2,
        "the embeddings do not match the images; nothing is imported",
        "../out --root .. --index ../new --sample 4",
        exported,
    ),
    Case("probe train", 0, "the probe is saved", "../labels --name x", learnable),
    Case(
        "probe train",
        2,
        "it is no better than guessing, or worse than its words, and is not saved",
        "../labels --name x",
        like_each_other,
    ),
    Case(
        "probe train",
        3,
        "the policy forbids its name or a class",
        "../labels --name face-recognition",
        learnable,
    ),
    Case("probe list", 1, "there are no probes"),
    Case("query save", 0, "the query is saved", "x crack"),
    Case("query save", 3, "the policy forbids the query", "x identify"),
    Case(
        "domain check",
        0,
        "the gate refuses no more than the domain allows",
        "../parts.toml --model pocket",
    ),
    Case(
        "domain check",
        1,
        "the gate refuses more than the domain allows",
        "../strict.toml --model pocket",
    ),
    Case("doctor", 0, "everything can be used", "", check_of(diagnosis.State.OK)),
    Case("doctor", 2, "there is a problem", "", check_of(diagnosis.State.PROBLEM)),
    Case("browse", 130, "Ctrl-C, the only way to stop it", "", served),
    Case("watch", 130, "Ctrl-C, the only way to stop it", "", watched),
]

WORDS = {"identify": "identify this man", "revenue": "quarterly revenue"}
"""An argument of several words."""


def rows() -> Iterator[tuple[str, int, str]]:
    for line in pages()["exit-codes"].splitlines():
        if found := ROW.fullmatch(line):
            yield found[1], int(found[2]), found[3]


def test_every_row_of_the_page_is_run_and_no_other() -> None:
    assert list(rows()) == list(
        dict.fromkeys((case.command, case.code, case.when) for case in CASES)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command} {case.code} {case.when}")
def test_a_command_returns_what_the_page_says(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    (root / "few.csv").write_text("path,label\ncrack/0.png,dent\n")
    case.prepare(root, run, monkeypatch)
    arguments = [WORDS.get(word, word) for word in f"{case.command} {case.arguments}".split()]
    done = run(*arguments, cwd=root, stdin=case.lines.encode())
    assert done.code == case.code, done.err
    assert "bug" not in done.err


EVERY = [path for path, command in every_command() if path and not hasattr(command, "commands")]


@pytest.mark.parametrize("command", EVERY)
def test_a_wrong_command_line_is_an_error_whatever_the_command(run: Run, command: str) -> None:
    assert run(*command.split(), "--no-such-option").code == 2


@pytest.mark.parametrize("case", [c for c in CASES if c.code == 0], ids=lambda case: case.command)
def test_an_interrupt_is_130_whatever_the_command(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.setattr(typer._click.core.Context, "invoke", interrupt)
    arguments = f"{case.command} {case.arguments}".split()
    assert run(*arguments, cwd=root).code == 130
