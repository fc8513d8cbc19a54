"""Groups of options: frozen dataclasses that several commands take, and that are resolved once."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def grouped(command: Callable[..., int]) -> Callable[..., int]:
    """Let a command take groups of options.

    A parameter that is annotated with a dataclass stands for the options that its fields are,
    each an ``Annotated`` one with a default. What typer sees is the options; what the command
    gets is the record.
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

    seen: Any = with_groups  # what typer reads, and mypy does not know of a function
    seen.__signature__ = inspect.Signature(spread)
    seen.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return with_groups


def _option(name: str, default: object, annotation: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
