"""What needs no model does not wait for torch, which takes seconds to import."""

import shutil
import sys
from pathlib import Path

import pytest
from conftest import ASK, Run, make_picture, places_beside, run_here

HEAVY = {"torch", "open_clip", "torchvision", "timm", "huggingface_hub", "transformers"}

COMMANDS = ["search", "browse", "evaluate", "classify", "probe"]

PICTURES = ["a.png", "b.png", "c.jpg", "d.png", "e.png", "f.png"]
LABELS = ["cat", "dog"] * 3

IMPORT_TIMES = (sys.executable, "-X", "importtime", "-m", "clipsearch")
"""Python then lists every module on standard error, as it is imported."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    root.mkdir()
    for seed, name in enumerate(PICTURES):
        make_picture(root / name, seed % 2)  # each label is of one image, and can be learned
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    (root / "texts.txt").write_text("a cat\na dog\n")
    rows = "".join(f"{name},{label}\n" for name, label in zip(PICTURES, LABELS, strict=True))
    (root / "labels.csv").write_text("path,label\n" + rows)
    with places_beside(root):
        assert run_here("probe", "train", root / "labels.csv", "--name", "kept") == 0
    return root


def imported(stderr: str) -> set[str]:
    """The packages in a list of import times."""
    lines = [line for line in stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 50
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


DONE = [
    (["--version"], 0),
    (["--help"], 0),
    (["index", "--help"], 0),
    (["help", "scores"], 0),
    (["status"], 0),
    (["status", "--json"], 0),
    ([*ASK, "a red bicycle"], 0),
    ([*ASK, "ein rotes Fahrrad – schön", "--json", "--under", "."], 0),
    ([*ASK, "--image", "a.png"], 0),
    (["index", "."], 0),
    (["search"], 2),
    (["search", "--no-such-option"], 2),
    (["index", ".", "--model", "no-such-model"], 2),
    (["classify", "--texts", "a.png"], 2),
    (["classify", "a.png", "--domain", "no-such-domain.toml"], 2),
    (["classify", "a.png", "b.png", "--texts", "texts.txt"], 0),
    (["evaluate", "labels.csv", "--html", "page.html"], 1),
    (["probe", "train", "labels.csv", "--name", "x"], 0),
    (["probe", "list"], 0),
]
"""Command lines and their exit codes; an evaluation of a model that means nothing fails."""


@pytest.mark.parametrize(
    ("arguments", "code"), DONE, ids=[" ".join(arguments) for arguments, _ in DONE]
)
def test_this_is_done_without_torch(
    run_process: Run, made: Path, arguments: list[str], code: int
) -> None:
    done = run_process(*arguments, cwd=made, command=IMPORT_TIMES)
    assert done.code == code
    packages = imported(done.err)
    assert {"clipsearch", "typer"} <= packages
    assert not packages & HEAVY


def test_what_changed_without_a_new_picture_is_indexed_without_torch(
    run_process: Run, made: Path, tmp_path: Path
) -> None:
    collection = Path(shutil.copytree(made, tmp_path / "photos"))
    (collection / "a.png").rename(collection / "renamed.png")
    (collection / "b.png").unlink()
    shutil.copy(collection / "c.jpg", collection / "copy.jpg")
    done = run_process("index", collection, command=IMPORT_TIMES)
    assert done.code == 0
    assert "1 added, 1 moved, 1 removed" in done.err
    assert not imported(done.err) & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS), ["probe", "train", "-h"]],
    ids=" ".join,
)
def test_help_loads_next_to_nothing(run_process: Run, arguments: list[str]) -> None:
    done = run_process(*arguments, command=IMPORT_TIMES)
    assert done.code == 0
    loaded = imported(done.err)
    # The rooms that a command answers from stand at the top of its module.
    own = {"numpy", "sqlite3", *({"PIL"} if arguments[0] == "browse" else ())}
    if arguments[0].startswith("-"):
        own = set()
    assert not loaded & ({"numpy", "faiss", "PIL", "sqlite3", "rich", "scipy"} - own)


def test_a_text_is_searched_without_what_draws_and_decodes(run_process: Run, made: Path) -> None:
    done = run_process(*ASK, "a red bicycle", cwd=made, command=IMPORT_TIMES)
    assert done.code == 0
    assert not imported(done.err) & {"PIL", "rich", "jinja2", "multiprocessing"}


def test_a_small_collection_is_searched_without_faiss(run_process: Run, made: Path) -> None:
    for arguments in ([*ASK, "a red bicycle"], ["status"], ["index", "."]):
        done = run_process(*arguments, cwd=made, command=IMPORT_TIMES)
        assert done.code == 0
        assert "faiss" not in imported(done.err)
