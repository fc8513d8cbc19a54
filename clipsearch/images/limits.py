"""What bounds decoding on this machine: known without loading a decoder, which is slow."""

import os
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

_DECODERS = ("pillow", "pillow-heif")


@dataclass(frozen=True, slots=True)
class Limits:
    """What decides, beside a file itself, whether it can be decoded."""

    max_pixels: int
    """Images of more pixels are not decoded."""
    decoders: str
    """Names and versions of the packages that decode."""

    @classmethod
    def here(cls, max_pixels: int | None = None) -> "Limits":
        """Those of this machine, with another limit of pixels where one is given."""
        return cls(max_pixels or default_max_pixels(), ", ".join(map(_named, _DECODERS)))


def default_max_pixels() -> int:
    """The largest image to decode: 256 megapixels, or less where memory is small.

    A decoded pixel can take 12 bytes on its way (RGBA, RGB and the composite), and two or more
    images are decoded at once, so a thirty-second of the memory in bytes is a safe count.
    """
    limit = 256_000_000
    with suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        limit = min(limit, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 32)
    return limit


def _named(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:  # bundled, without what pip notes of a package
        return package
