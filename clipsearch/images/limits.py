"""Limits for decoding on this machine, available without importing a decoder, which is slow."""

import os
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

_DECODERS = ("pillow", "pillow-heif")


@dataclass(frozen=True, slots=True)
class Limits:
    """What decides, apart from the file itself, whether it can be decoded."""

    max_pixels: int
    """Images with more pixels are not decoded."""
    decoders: str
    """Names and versions of the packages that decode."""

    @classmethod
    def here(cls, max_pixels: int | None = None) -> "Limits":
        """This machine's limits, with another pixel limit if one is given."""
        return cls(max_pixels or default_max_pixels(), ", ".join(map(_named, _DECODERS)))


def default_max_pixels() -> int:
    """The largest image to decode: 256 megapixels, or less if there is little memory.

    A pixel can take 12 bytes while it is decoded (RGBA, RGB and the composite), and two or more
    images are decoded at once, so one pixel per 32 bytes of memory is safe.
    """
    limit = 256_000_000
    with suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        limit = min(limit, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 32)
    return limit


def _named(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:  # bundled without the package's metadata
        return package
