"""Where the program begins: ``clipsearch`` and ``python -m clipsearch``."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the program and leave with its exit code."""
    # Whoever presses Ctrl-C while modules are still being loaded gets an end, and no traceback.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from clipsearch import cli

    signal.signal(signal.SIGINT, handler)
    cli.main()


if __name__ == "__main__":
    main()
