"""The entry point of ``clipsearch`` and ``python -m clipsearch``."""

import os
import sys


def main() -> None:
    """Run the program and exit with its exit code."""
    # Ctrl-C while modules are being imported must end the program without a traceback. So first
    # Python's own handler is silenced. Then the system's handler replaces it, because a library
    # may mistake a KeyboardInterrupt during its import for an error.
    sys.excepthook = _without_interrupts
    import signal

    _open_missing_streams()

    watched = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and is not ignored
    if watched:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from clipsearch import cli

    if watched:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def _open_missing_streams() -> None:
    """Reopen closed standard streams; otherwise the next file opened would take their place."""
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
