"""Turns typer's errors about an invalid command line into our own messages.

typer bundles a click of its own and does not export its errors. Only this module knows them;
pyproject.toml pins the versions of typer that it fits.
"""

import re
from collections.abc import Sequence
from typing import Any

import typer
from typer._click.exceptions import (
    BadOptionUsage,
    BadParameter,
    MissingParameter,
    NoArgsIsHelpError,
    NoSuchOption,
)
from typer.core import TyperGroup
from typer.main import get_command

from clipsearch import text
from clipsearch.cli.app import app
from clipsearch.cli.examples import examples
from clipsearch.errors import UsageError

_OTHER_WORDS = {
    "search": {"find", "query", "look", "grep", "show", "get"},
    "index": {"add", "build", "create", "scan", "update", "import", "embed", "reindex"},
    "status": {"info", "list", "ls", "stats"},
    "help": {"recipes", "man", "manual", "docs"},
    "doctor": {"check", "diagnose", "test", "version"},
}
"""Names that users of other programs may try for these commands."""


def explained(error: typer.TyperException, arguments: Sequence[str]) -> UsageError:
    """The error as one of ours, with the next step."""
    command, path = _asked_for(arguments)
    return UsageError(_message(error, command, arguments), hint=_hint(error, command, path))


def is_help(error: typer.TyperException) -> bool:
    """Whether the message is the full help of a command that got no arguments."""
    return isinstance(error, NoArgsIsHelpError)


def _asked_for(arguments: Sequence[str]) -> tuple[Any, str]:
    """The command that the arguments name, as far as they are valid, and its path."""
    command: Any = get_command(app)
    path = "clipsearch"
    for argument in arguments:
        if not isinstance(command, TyperGroup):
            break
        found = command.get_command(typer.Context(command), argument)
        if found is None:
            break
        command, path = found, f"{path} {argument}"
    return command, path


def _message(error: typer.TyperException, command: Any, arguments: Sequence[str]) -> str:
    plain = error.format_message()
    match error:
        case NoSuchOption():
            return _unknown_option(error.option_name, command, arguments)
        case BadOptionUsage() if "does not take a value" in plain:
            return f"{error.option_name} takes no value"
        case BadOptionUsage():
            given = (p for p in command.params if error.option_name in p.opts)
            names_it = "".join(f": {_value_name(parameter)}" for parameter in given)
            return f"{error.option_name} needs a value{names_it}"
        case MissingParameter() if error.param is not None:
            what = _value_name(error.param)
            means = getattr(error.param, "help", None)
            if error.param.param_type_name == "option":
                what = f"{error.param.opts[-1]} {what}"
            return f"{command.name} needs {what}" + (f": {means}" if means else "")
        case BadParameter() if error.param is not None:
            return _bad_value(error.param, error.message)
    name = _unknown_command(error)
    if name is not None:
        known = command.list_commands(None)
        meant = [other for other, words in _OTHER_WORDS.items() if name.lower() in words]
        meant = [other for other in meant if other in known]
        ask = f" (did you mean {meant[0]}?)" if meant else text.did_you_mean(name, known)
        return f"there is no command '{name}'{ask}"
    if found := re.search(r"unexpected extra argument\(s\) \((.*)\)$", plain, re.S):
        return f"unexpected argument '{found[1]}' for {command.name}"
    return plain


def _hint(error: typer.TyperException, command: Any, path: str) -> str:
    see = f"See: {path} --help"
    if isinstance(error, MissingParameter) and (shown := examples(command.help)):
        return f"For example: {shown[0]}"
    if "unexpected extra argument" in str(error):
        searches = command.name == "search"
        return "Put quotation marks around a query of several words." if searches else see
    if isinstance(error, BadParameter) and "is not readable" in str(error):
        return "Check its permissions; it may belong to another user."
    name = _unknown_command(error)
    if name and " " in name and path == "clipsearch":
        return f'To search for this text: clipsearch search "{name}"'
    return see


def _unknown_command(error: typer.TyperException) -> str | None:
    """The unknown command that the error names; None if it is another error."""
    found = re.search(r"^No such command '(.*?)'\.", error.format_message(), re.S)
    return found[1] if found else None


def _unknown_option(name: str, command: Any, arguments: Sequence[str]) -> str:
    known = ["--help", *(option for parameter in command.params for option in parameter.opts)]
    if name.startswith("--"):
        return f"there is no option {name}{text.did_you_mean(name, known, 2)}"
    # For -count, click reports that there is no -c.
    written = next((a for a in arguments if a.startswith(name) and len(a) > 2), name)
    meant = [f"-{written}"] if f"-{written}" in known else text.close(f"-{written}", known, 1)
    if meant:
        return f"there is no option {written} (did you mean {meant[0]}, with two hyphens?)"
    return f"there is no option {name}"


def _bad_value(parameter: Any, message: str) -> str:
    option = "/".join(parameter.opts)  # for an argument, its name
    if found := re.search(r"^'(.*)' is not a valid (int|float)", message, re.S):
        kind = "whole number" if found[2] == "int" else "number"
        return f"{option} takes a {kind}, not '{found[1]}'"
    if found := re.search(r"^(\S+) is not in the range", message):
        least = getattr(parameter.type, "min", None)
        most = getattr(parameter.type, "max", None)
        bounds = [f"at least {least}"] * (least is not None) + [f"at most {most}"] * (
            most is not None
        )
        return f"{option} must be {' and '.join(bounds)}, not {found[1]}"
    return f"{option}: {message.rstrip('.')}"


def _value_name(parameter: Any) -> str:
    name: str = parameter.metavar or parameter.name.upper()
    return name.rstrip(".")
