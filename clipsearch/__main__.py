"""Where the program begins: ``clipsearch`` and ``python -m clipsearch``."""

import os
import sys


def main() -> None:
    """Run the program and leave with its exit code."""
    # Whoever presses Ctrl-C while modules are still being loaded gets an end, and no traceback.
    # Before anything else is imported, Python's own handler is told to be quiet; then it makes way
    # for the system's, since a library may take an interrupt of its import for an error.
    sys.excepthook = _without_interrupts
    import signal

    _open_missing_streams()

    watched = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and not ignored
    if watched:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from clipsearch import cli

    if watched:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def _open_missing_streams() -> None:
    """Open what the caller has closed, or the next file, an index say, would be in its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _without_interrupts(kind: type[BaseException], error: BaseException, _: object) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, error.__traceback__)


if __name__ == "__main__":
    main()
