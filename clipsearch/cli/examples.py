"""The examples in a command's help."""

import inspect


def examples(help: str | None) -> list[str]:
    """The command lines that a help text shows under "Examples:"."""
    _, _, shown = inspect.cleandoc(help or "").partition("Examples:\n")
    return [line.strip() for line in shown.partition("\n\n")[0].splitlines()]
