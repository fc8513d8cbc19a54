"""The man page, generated from the same definitions as ``--help``.

::

    python -m clipsearch.cli.manual > clipsearch.1
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from clipsearch import __version__
from clipsearch.cli.app import app, every_command

_VARIABLES = {
    "CLIPSEARCH_DATA_DIR": "Folder for the list of indexed folders and the saved queries.",
    "CLIPSEARCH_CACHE_DIR": "Folder for files that can be recreated.",
    "HF_HUB_OFFLINE": "If 1, never use the network, like --offline.",
    "NO_COLOR": "If set, print without color.",
}
"""Environment variables without an option."""

_FILES = {
    "FOLDER/.clipsearch": "The index of a folder. catalog.sqlite3 holds all data; vectors.faiss is "
    "built from it and can be deleted at any time.",
    "~/.local/share/clipsearch": "The list of indexed folders, and the saved queries.",
    "~/.cache/clipsearch": "Files that can be recreated.",
    "~/.cache/huggingface/hub": "The weights of models, unless HF_HOME or HF_HUB_CACHE is set.",
}


def page() -> str:
    """The page in roff, with man(7) macros."""
    root: Any = get_command(app)
    commands = [
        (f"clipsearch {path}", command)
        for path, command in every_command()
        if not isinstance(command, TyperGroup)
    ]
    lines = [
        f'.TH CLIPSEARCH 1 "" "clipsearch {__version__}" "User Commands"',
        ".SH NAME",
        f"clipsearch \\- {_text(_first_line(root).lower().rstrip('.'))}",
        ".SH SYNOPSIS",
        ".nf",
        *(_synopsis(command, path) for path, command in commands),
        ".fi",
        ".SH DESCRIPTION",
        *_description(root),
        ".SH OPTIONS",
        *_parameters(root, "clipsearch"),
        ".SH COMMANDS",
    ]
    for path, command in commands:
        lines += [f".SS {_text(path)}", *_description(command), *_parameters(command, path)]
    lines += [".SH EXIT STATUS", *_exit_codes(root.epilog)]
    lines += [".SH ENVIRONMENT", *_terms(_variables(commands))]
    lines += [".SH FILES", *_terms(_FILES)]
    return "\n".join(lines) + "\n"


def _synopsis(command: Any, path: str) -> str:
    with command.make_context(path, [], resilient_parsing=True) as context:
        return _text(" ".join([path, *command.collect_usage_pieces(context)]))


def _description(command: Any) -> Iterator[str]:
    """The help's paragraphs; one that starts with a backspace keeps its line breaks."""
    for number, paragraph in enumerate(inspect.cleandoc(command.help).split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            heading, _, rest = paragraph.removeprefix("\b\n").partition("\n")
            yield from (_text(heading), ".RS 4", ".nf")
            yield from (_text(line.removeprefix("  ")) for line in rest.splitlines())
            yield from (".fi", ".RE")
        else:
            yield _filled(paragraph)


def _parameters(command: Any, path: str) -> Iterator[str]:
    with command.make_context(path, [], resilient_parsing=True) as context:
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    yield from _terms({record[0]: record[1] for record in records if record is not None})


def _exit_codes(epilog: str) -> Iterator[str]:
    """The exit codes at the end of the help: "0 hits, or ...; 1 no match"."""
    codes = epilog.removeprefix("Exit codes: ").rstrip(".").split("; ")
    yield from _terms(dict(code.split(" ", 1) for code in codes))


def _variables(commands: list[tuple[str, Any]]) -> dict[str, str]:
    """Environment variables: those that set options, and the others."""
    found = {
        parameter.envvar: f"Sets {parameter.opts[-1]}, which overrides it. {parameter.help}"
        for _, command in commands
        for parameter in command.params
        if getattr(parameter, "envvar", None)
    }
    return dict(sorted({**found, **_VARIABLES}.items()))


def _terms(terms: dict[str, str]) -> Iterator[str]:
    for term, means in terms.items():
        yield from (".TP", f"\\fB{_text(term)}\\fR", _filled(means) or "\\&")


def _first_line(command: Any) -> str:
    line: str = inspect.cleandoc(command.help).splitlines()[0]
    return line


def _text(text: str) -> str:
    """Text with roff's special characters escaped."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = text.replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    return re.sub(r"^(?=\.)", r"\\&", text.rstrip(), flags=re.M)


def _filled(text: str) -> str:
    """A paragraph wrapped at 70 characters."""
    return "\n".join(map(_text, textwrap.wrap(text, 70, break_on_hyphens=False)))


if __name__ == "__main__":
    sys.stdout.write(page())
