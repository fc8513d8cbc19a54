"""The floor plan holds: imports go downward, and each heavy library has one room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clipsearch"

FLOORS = [
    {
        *("errors", "names", "typed", "records", "vectors", "changes", "clusters", "mixing"),
        *("globe", "neighbours", "structure"),
    },
    {
        *("places", "images", "decoding", "decode_pool", "thumbnails"),
        *("flat_index", "vector_index", "store", "collections"),
    },
    {"tokenizer", "text_encoder", "models", "encoder"},
    {"domain"},
    {
        *("indexing", "watching", "embedding", "retrieval", "assurance", "queries"),
        *("evaluating", "classifying", "probes", "saved_queries", "verifying", "diagnosis"),
        *("exchange", "likeness", "duplicates", "diversity"),
    },
    {
        *("output", "reports", "pages", "duplicate_reports"),
        *("montage", "preview", "browsing", "serving"),
    },
    {"cli", "__main__"},
]

ONE_ROOM = {
    "torch": "encoder",
    "open_clip": "encoder",
    "faiss": "flat_index",
    "sqlite3": "store",
    "pyarrow": "exchange",
    "watchfiles": "watching",
    "typer": "cli",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of all that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(name: str) -> int:
    return next(n for n, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    if room(path) == "__init__":
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "clipsearch" and len(parts) > 1 and parts[1] != "__version__":
            assert floor(parts[1]) <= floor(room(path)), f"{room(path)} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_heavy_library_has_one_room(path: Path) -> None:
    for name in imported(path):
        library = name.split(".")[0]
        assert ONE_ROOM.get(library, room(path)) == room(path)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    if room(path) in ("cli", "__main__"):
        return
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"print", "exit", "quit"}
    assert "sys.exit" not in path.read_text()


@pytest.mark.parametrize(
    "module",
    [
        "indexing",
        "retrieval",
        "assurance",
        "domain.gate",
        "domain.evaluation",
        "output",
        "models",
        "store",
        "cli",
    ],
)
def test_importing_a_room_leaves_torch_out(module: str) -> None:
    program = (
        f"import sys, clipsearch.{module}\n"
        "sys.exit(bool({'torch', 'open_clip', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
