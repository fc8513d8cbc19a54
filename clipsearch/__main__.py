"""``python -m clipsearch`` is the same program as ``clipsearch``."""

from clipsearch.cli import main

if __name__ == "__main__":
    main()
