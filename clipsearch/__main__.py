"""Where the program begins: ``clipsearch`` and ``python -m clipsearch``."""

import sys


def main() -> None:
    """Run the program and leave with its exit code."""
    # Whoever presses Ctrl-C while modules are still being loaded gets an end, and no traceback.
    # Before anything else is imported, Python's own handler is told to be quiet; then it makes way
    # for the system's, since a library may take an interrupt of its import for an error.
    sys.excepthook = _without_interrupts
    import signal

    watched = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and not ignored
    if watched:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from clipsearch import cli

    if watched:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def _without_interrupts(kind: type[BaseException], error: BaseException, _: object) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, error.__traceback__)


if __name__ == "__main__":
    main()
