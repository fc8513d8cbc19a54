"""The floor plan holds: imports go strictly downward, and each heavy library has one file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clipsearch"

FLOORS = [
    {"errors", "records", "vectors", "paths", "text", "typed"},
    {"images", "models", "domain"},
    {"storage"},
    {"indexing"},
    {"evaluation"},
    {"search"},
    {"web"},
    {"cli", "api"},
    {"__main__", "__init__"},
]
"""From the bottom up. A room imports from the floors below its own; the pure files at the bottom,
which are no folders, also from each other."""

ONE_FILE = {
    "torch": "models/open_clip.py",
    "open_clip": "models/open_clip.py",
    "faiss": "storage/vectors/faiss_files.py",
    "sqlite3": "storage/sqlite.py",
    "pyarrow": "indexing/transfer/layout.py",
    "ray": "indexing/on_ray.py",
    "watchfiles": "indexing/watch.py",
}

MOST_LINES = 450


def modules() -> dict[str, Path]:
    """Every module by its dotted name, packages among them."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()
NAMES = [name for name in MODULES if name != "clipsearch"]


@cache
def imported(name: str) -> frozenset[str]:
    """Dotted names of the modules that a module imports, wherever in it."""
    return frozenset(_imported(MODULES[name]))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else node.module or ""


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def floor(name: str) -> int:
    return next(n for n, rooms in enumerate(FLOORS) if room(name) in rooms)


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_strictly_downward(name: str) -> None:
    for other in imported(name):
        if not other.startswith("clipsearch.") or room(other) == room(name):
            continue
        both_pure = floor(other) == floor(name) == 0
        assert both_pure or floor(other) < floor(name), f"{name} imports {other}"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name: imported(name) & MODULES.keys() - {"clipsearch"} for name in NAMES}
    assert list(TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize("name", NAMES)
def test_each_heavy_library_has_one_file(name: str) -> None:
    own = MODULES[name].relative_to(PACKAGE).as_posix()
    for library in {other.split(".")[0] for other in imported(name)}:
        assert ONE_FILE.get(library, own) == own
        assert library != "typer" or room(name) == "cli"


HARMLESS = {"FORMATS", "fit", "jpeg"}
"""What of ``images.decode`` may be used in the program's own process: it decodes no file."""


@pytest.mark.parametrize("name", NAMES)
def test_only_the_pools_processes_decode_files(name: str) -> None:
    if name.startswith("clipsearch.images."):
        return
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "clipsearch.images.decode":
            used |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "decode":
            used.add(node.attr)
    assert used <= HARMLESS | {"decode"}  # of bytes
    assert "decode" not in used or "clipsearch.images.decode" not in imported(name)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_command_line_prints_and_exits(name: str) -> None:
    if room(name) in ("cli", "__main__"):
        return
    text = MODULES[name].read_text(encoding="utf-8")
    called = {
        node.func.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"print", "exit", "quit"}
    assert "sys.exit" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_room_can_be_taken_in_at_a_glance(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", [name for name in NAMES if MODULES[name].stem == "__init__"])
def test_a_folder_says_what_it_is_for(name: str) -> None:
    if name == "clipsearch.cli":  # a module of its own: where errors are caught
        return
    said = ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    assert said
    assert len(said.splitlines()) <= 10


@pytest.mark.process
@pytest.mark.parametrize(
    "module",
    [
        "indexing.reconcile",
        "search.answer",
        "storage.collection",
        "domain.gate",
        "evaluation.metrics",
        "cli.render.hits",
        "models.registry",
        "storage.catalog",
        "cli",
    ],
)
def test_importing_a_room_leaves_torch_out(module: str) -> None:
    program = (
        f"import sys, clipsearch.{module}\n"
        "sys.exit(bool({'torch', 'open_clip', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
