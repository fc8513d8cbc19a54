"""Option groups: frozen dataclasses that several commands take."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def grouped(command: Callable[..., int]) -> Callable[..., int]:
    """Let a command take groups of options.

    Each field of a parameter annotated with a dataclass becomes an option; it must be
    ``Annotated`` and have a default. typer sees the options, and the command gets the record.
    """
    groups: dict[str, type] = {}
    spread: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if is_dataclass(parameter.annotation) and isinstance(parameter.annotation, type):
            groups[parameter.name] = parameter.annotation
            hints = get_type_hints(parameter.annotation, include_extras=True)
            options = [(field.name, field.default) for field in fields(parameter.annotation)]
            spread += [_option(name, default, hints[name]) for name, default in options]
        else:
            spread.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def with_groups(**given: Any) -> int:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        return command(**given)

    seen: Any = with_groups  # mypy does not know these attributes of a function, which typer reads
    seen.__signature__ = inspect.Signature(spread)
    seen.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return with_groups


def _option(name: str, default: object, annotation: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
