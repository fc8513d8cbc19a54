"""Help texts as ``--help`` prints them, kept under tests/golden/help.

python tests/help_texts.py     # writes them as they are printed now
"""

import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from clipsearch.cli.app import app, every_command

GOLDEN = Path(__file__).parent / "golden" / "help"
WIDTH = 100


def help_texts() -> Mapping[str, str]:
    """File name -> what ``--help`` of a command prints on a wide terminal."""
    os.environ["COLUMNS"] = str(WIDTH)
    return {
        f"{'-'.join(['clipsearch', *path.split()])}.txt": _help(path) for path, _ in every_command()
    }


def _help(path: str) -> str:
    with redirect_stdout(StringIO()) as printed:
        app([*path.split(), "--help"], prog_name="clipsearch", standalone_mode=False)
    return printed.getvalue()


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for old in GOLDEN.iterdir():
        old.unlink()
    for name, text in help_texts().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
