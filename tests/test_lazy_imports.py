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
        make_picture(root / name, seed)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    (root / "texts.txt").write_text("a cat\na dog\n")
    rows = "".join(f"{name},{label}\n" for name, label in zip(PICTURES, LABELS, strict=True))
    (root / "labels.csv").write_text("path,label\n" + rows)
    return root


def imported(stderr: str) -> set[str]:
    """The packages in a list of import times."""
    lines = [line for line in stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 50
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["index", "--help"],
        ["status"],
        ["status", "--json"],
        [*ASK, "a red bicycle"],
        [*ASK, "ein rotes Fahrrad – schön", "--json", "--under", "."],
        [*ASK, "--image", "a.png"],
        ["index", "."],
        ["search"],
        ["search", "--no-such-option"],
        ["index", ".", "--model", "no-such-model"],
        ["classify", "--texts", "a.png"],
        ["classify", "a.png", "--domain", "no-such-domain.toml"],
        ["classify", "a.png", "b.png", "--texts", "texts.txt"],
        ["evaluate", "labels.csv", "--html", "page.html"],
        ["probe", "train", "labels.csv", "--name", "x"],
        ["probe", "list"],
    ],
    ids=" ".join,
)
def test_this_is_done_without_torch(run: Run, made: Path, arguments: list[str]) -> None:
    done = run(*arguments, cwd=made, command=IMPORT_TIMES)
    assert done.code in (0, 1, 2)
    packages = imported(done.err)
    assert {"clipsearch", "typer"} <= packages
    assert not packages & HEAVY


def test_what_changed_without_a_new_picture_is_indexed_without_torch(
    run: Run, made: Path, tmp_path: Path
) -> None:
    collection = Path(shutil.copytree(made, tmp_path / "photos"))
    (collection / "a.png").rename(collection / "renamed.png")
    (collection / "b.png").unlink()
    shutil.copy(collection / "c.jpg", collection / "copy.jpg")
    done = run("index", collection, command=IMPORT_TIMES)
    assert done.code == 0
    assert "1 added, 0 changed, 1 moved, 1 removed" in done.err
    assert not imported(done.err) & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS), ["probe", "train", "-h"]],
    ids=" ".join,
)
def test_help_loads_next_to_nothing(run: Run, arguments: list[str]) -> None:
    done = run(*arguments, command=IMPORT_TIMES)
    assert done.code == 0
    loaded = imported(done.err)
    # The rooms that these two answer from stand at the tops of their modules.
    own = {"search": {"numpy", "sqlite3"}, "browse": {"numpy", "sqlite3", "PIL"}}
    assert not loaded & {"numpy", "faiss", "PIL", "sqlite3", "rich"} - own.get(arguments[0], set())


def test_a_text_is_searched_without_what_draws_and_decodes(run: Run, made: Path) -> None:
    done = run(*ASK, "a red bicycle", cwd=made, command=IMPORT_TIMES)
    assert done.code == 0
    assert not imported(done.err) & {"PIL", "rich", "jinja2"}


def test_a_small_collection_is_searched_without_faiss(run: Run, made: Path) -> None:
    for arguments in ([*ASK, "a red bicycle"], ["status"], ["index", "."]):
        done = run(*arguments, cwd=made, command=IMPORT_TIMES)
        assert done.code == 0
        assert "faiss" not in imported(done.err)
