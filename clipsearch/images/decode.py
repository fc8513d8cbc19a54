"""Turn one image file into the pixels that an image tower takes.

Safely: only the formats listed here are tried (Pillow would pass an EPS to an interpreter), the
size is checked before memory is allocated, and every failure is an ImageError with a plain reason.

Faithfully: the geometry is that of open_clip's own evaluation transform (torchvision's Resize and
CenterCrop, or its ResizeKeepRatio and CenterCropOrPad). But only the part that survives the crop
is resampled, so an image of 100,000 x 1 pixels costs no more than any other. The arithmetic is the
same up to rounding (1/255 on images): since version 13, Pillow decides by the sizes whether to
resample rows or columns first.
"""

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image, UnidentifiedImageError

from clipsearch.errors import ImageError
from clipsearch.images.limits import default_max_pixels
from clipsearch.images.scan import content_hash
from clipsearch.images.shards import opened
from clipsearch.records import DecodedImage, Origin, Pixels, Preprocessing, SeenImage, Source

pillow_heif.register_heif_opener()
# Pillow's own limit counts pixels before a JPEG is scaled down; ours (max_pixels) replaces it.
Image.MAX_IMAGE_PIXELS = None

Image.init()  # loads this build's decoders; AVIF is not in every one
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "HEIF", "AVIF")
    if name in Image.OPEN
)

_ORIENTATION, _DATE_TIME, _EXIF_IFD, _DATE_TIME_ORIGINAL = 0x0112, 0x0132, 0x8769, 0x9003
_MAKE, _MODEL, _GPS_IFD = 0x010F, 0x0110, 0x8825
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4

_LONGEST_NAME = 100
"""Characters of a make or a model: twice as long as real ones."""

_LONGEST_EXIF = 1 << 16
"""Bytes of EXIF: the most that a JPEG, its main source, can hold."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the image upright (EXIF 2.32, tag 274)."""

_SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""

_PLAIN = ("1", "L", "P", "RGB", "YCbCr", "CMYK")
"""Modes that every program converts to the same RGB."""

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def decode(
    source: Source | str, preprocessing: Preprocessing, max_pixels: int | None = None
) -> DecodedImage:
    """Read, hash and decode one image of at most ``max_pixels`` (``default_max_pixels``).

    Raises ImageError if the file cannot be decoded as an image, and OSError if it cannot be opened
    or read.
    """
    # Twice the target size hardly changes the final result: by 0.18/255 on average.
    least = 2 * max(preprocessing.size)
    return _decoded(source, least, lambda image: fit(image, preprocessing), max_pixels)


def decode_whole(source: Source | str, longest: int, max_pixels: int | None = None) -> DecodedImage:
    """Like ``decode``, but the whole image, scaled down until no side is longer than ``longest``.

    Raises the same errors as ``decode``.
    """

    def smaller(image: Image.Image) -> Pixels:
        image.thumbnail((longest, longest))
        return np.array(image)

    return _decoded(source, longest // 2, smaller, max_pixels)


def _decoded(
    source: Source | str,
    least: int,
    finish: Callable[[Image.Image], Pixels],
    max_pixels: int | None,
) -> DecodedImage:
    with opened(source) as file:
        digest = content_hash(file)
        if file.tell() == 0:
            raise ImageError("the file is empty")
        file.seek(0)
        with _plain_reasons():
            limit = max_pixels or default_max_pixels()
            image, width, height, told = _open_upright(file, least, limit)
            pixels = finish(image)
    return DecodedImage(pixels, digest, width, height, told.taken_at, *told.origin)


def see(source: Source | str, max_pixels: int | None = None) -> SeenImage:
    """Read and hash one image, and decode its header but no pixels.

    Raises ImageError if it does not have an image's header, and OSError if it cannot be read.
    """
    with opened(source) as file:
        digest = content_hash(file)
        file.seek(0)
        with _plain_reasons():
            image = Image.open(file, formats=FORMATS)
            width, height = _checked_size(image, max_pixels or default_max_pixels())
            alike = image.mode in _PLAIN and "transparency" not in image.info
            told = _metadata(lambda: _exif_of_header(image, file))
    if told.orientation in _SIDEWAYS and image.format != "TIFF":  # load() rotates it
        width, height = height, width
    alike = alike and told.orientation not in _UPRIGHT
    return SeenImage(digest, width, height, told.taken_at, told.origin, alike)


def read_origin(source: Source | str) -> Origin:
    """Read the camera and place of an image from its header, without decoding pixels.

    Damaged metadata counts as missing. Raises OSError if the file cannot be opened.
    """
    with opened(source) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(Exception):
            image = Image.open(file, formats=FORMATS)
            return _origin(_exif_of_header(image, file))
    return Origin()


def _exif_of_header(image: Image.Image, file: BinaryIO) -> Image.Exif:
    """Read EXIF without decoding; Pillow would decode a whole PNG to find it after the pixels."""
    if image.format != "PNG" or "exif" in image.info:
        return image.getexif()
    exif = Image.Exif()
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf" and length <= _LONGEST_EXIF:
            exif.load(file.read(length))
            break
        file.seek(length + 4, os.SEEK_CUR)
    return exif


@contextmanager
def _plain_reasons() -> Iterator[None]:
    """Turn any error of a decoder into an ImageError with a plain reason."""
    try:
        with warnings.catch_warnings():
            # Pillow warns about damaged metadata, but only the pixels matter here.
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("there is not enough memory to decode it", kind="memory") from error
    except Exception as error:
        # On damaged data, decoders raise many kinds of errors (struct.error, SyntaxError, ...).
        # They all mean the same to the user.
        raise ImageError(_reason(error)) from error


def _open_upright(
    file: BinaryIO, least: int, max_pixels: int
) -> "tuple[Image.Image, int, int, _Metadata]":
    """Open as RGB and upright, at a reduced resolution if the format offers that for free.

    least: pixels that both sides keep at least, unless the image is smaller.
    """
    image: Image.Image = Image.open(file, formats=FORMATS)
    width, height = _checked_size(image, max_pixels)
    if image.format == "TIFF":
        image.load()  # already makes it upright, and removes the orientation from its EXIF
        width, height = image.size
    told = _metadata(image.getexif)
    if image.format in ("JPEG", "MPO"):
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size at a fraction of the cost.
        image.draft("RGB", (least, least))
    image = to_rgb(image)
    if told.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[told.orientation])
    if told.orientation in _SIDEWAYS:
        width, height = height, width
    return image, width, height, told


def _checked_size(image: Image.Image, max_pixels: int) -> tuple[int, int]:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are {width * height / 1e6:,.0f} megapixels; "
            f"the limit is {max_pixels / 1e6:,.0f}",
            kind="pixels",
            pixels=width * height,
        )
    return width, height


class _Metadata(NamedTuple):
    """Facts from EXIF."""

    orientation: int = 1
    taken_at: str | None = None
    origin: Origin = Origin()


def _metadata(read_exif: Callable[[], Image.Exif]) -> _Metadata:
    """Everything that is readable; damaged EXIF, or a damaged part of it, counts as missing."""
    told = _Metadata()
    with suppress(Exception):
        exif = read_exif()
        told = told._replace(origin=_origin(exif))
        told = told._replace(orientation=int(exif.get(_ORIENTATION, 1)))
        stamp = exif.get_ifd(_EXIF_IFD).get(_DATE_TIME_ORIGINAL) or exif.get(_DATE_TIME)
        taken_at = datetime.strptime(str(stamp)[:19], "%Y:%m:%d %H:%M:%S").isoformat()
        told = told._replace(taken_at=taken_at)
    return told


def _origin(exif: Image.Exif) -> Origin:
    camera = None
    place: tuple[float | None, float | None] = (None, None)
    with suppress(Exception):
        camera = _camera(_tidied(exif.get(_MAKE)), _tidied(exif.get(_MODEL)))
    with suppress(Exception):
        gps = exif.get_ifd(_GPS_IFD)
        latitude = _degrees(gps[_LATITUDE], gps[_LATITUDE_REF], {"N": 1, "S": -1}, 90)
        longitude = _degrees(gps[_LONGITUDE], gps[_LONGITUDE_REF], {"E": 1, "W": -1}, 180)
        # 0, 0 is open sea, and what devices without a position write.
        if latitude or longitude:
            place = latitude, longitude
    return Origin(camera, *place)


def _camera(make: str, model: str) -> str | None:
    """Make and model together, without repeating the make: Canon EOS 5D, Apple iPhone 13."""
    if not model:
        return make or None
    known, named = make.casefold(), model.casefold()
    said = named.startswith(known) or named.split(maxsplit=1)[0] in known.split()
    whole = model if said else f"{make} {model}"
    return whole.strip()


def _tidied(value: object) -> str:
    """Text without control characters and with single spaces; empty if it is not text."""
    text = value if isinstance(value, str) else ""
    kept = "".join(letter for letter in text if letter.isspace() or letter.isprintable())
    return " ".join(kept.split())[:_LONGEST_NAME].strip()


def _degrees(value: Any, reference: str, signs: Mapping[str, int], limit: int) -> float:
    """Degrees, minutes and seconds as one number, with the sign of the direction.

    Raises KeyError, TypeError or ValueError for invalid values.
    """
    if not isinstance(value, tuple):  # text and bytes could also be unpacked
        raise TypeError("degrees, minutes and seconds are three numbers")
    sign = signs[reference.strip("\0 ").upper()]
    degrees, minutes, seconds = (float(part) for part in value)
    total = degrees + minutes / 60 + seconds / 3600
    # Seconds may be rounded up to 60. NaN fails every comparison.
    if not (degrees >= 0 and 0 <= minutes <= 60 and 0 <= seconds <= 60 and total <= limit):
        raise ValueError("not a place on Earth")
    return sign * round(total, 7)  # about 1 cm


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency over white, more than 8 bits scaled to 8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Scale gray values of 16 or 32 bits or float, ``(height, width)``, to 0..255.

    Unsigned 16-bit data spans 0..65535 by definition. Wider integers and floats have no such
    convention: values that fit 0..1, 0..255 or 0..65535 are read as that range; others are
    stretched from their minimum to their maximum.
    """
    scaled = np.nan_to_num(values.astype(np.float64))
    low, high = float(scaled.min()), float(scaled.max())
    if values.dtype.kind == "u":  # 16 bits, in either byte order
        low, high = 0.0, 65535.0
    elif low >= 0:
        limits = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
        low, high = 0.0, next((limit for limit in limits if high <= limit), high)
    return np.rint((scaled - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)


def fit(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resize and crop (or pad) an RGB image to ``(height, width, 3)``, as open_clip does."""
    target_h, target_w = preprocessing.size
    width, height = image.size
    resampling = _RESAMPLING[preprocessing.interpolation]
    match preprocessing.resize_mode:
        case "squash":
            scaled_w, scaled_h = target_w, target_h
        case "shortest" if target_h == target_w:
            # torchvision's Resize with one number truncates the longer edge; it does not round it.
            if width <= height:
                scaled_w, scaled_h = target_w, int(target_w * height / width)
            else:
                scaled_w, scaled_h = int(target_h * width / height), target_h
        case mode:
            ratios = (height / target_h, width / target_w)
            ratio = max(ratios) if mode == "longest" else min(ratios)
            if mode == "shortest":  # open_clip always uses bicubic here
                resampling = Image.Resampling.BICUBIC
            scaled_w, scaled_h = max(1, round(width / ratio)), max(1, round(height / ratio))
    # The window of the scaled image to keep. If the image is larger, the offset is CenterCrop's; if
    # it is smaller (only "longest"), it is pasted onto the fill color.
    kept_w, kept_h = min(scaled_w, target_w), min(scaled_h, target_h)
    left, top = round((scaled_w - kept_w) / 2.0), round((scaled_h - kept_h) / 2.0)
    step_x, step_y = width / scaled_w, height / scaled_h
    box = (
        left * step_x,
        top * step_y,
        min(width, (left + kept_w) * step_x),
        min(height, (top + kept_h) * step_y),
    )
    kept = image.resize((kept_w, kept_h), resampling, box=box)
    if (kept_w, kept_h) != (target_w, target_h):
        fill = preprocessing.fill_color
        padded = Image.new("RGB", (target_w, target_h), (fill, fill, fill))
        padded.paste(kept, ((target_w - kept_w) // 2, (target_h - kept_h) // 2))
        kept = padded
    return np.array(kept)


def jpeg(pixels: Pixels) -> bytes:
    """Pixels ``(height, width, 3)`` as a small JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return file.getvalue()


def _reason(error: Exception) -> str:
    """Why Pillow failed, in one line without names of its own objects."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in any format that clipsearch reads"
    text = " ".join(str(error).split())
    return f"damaged image ({text})" if text else f"damaged image ({type(error).__name__})"
