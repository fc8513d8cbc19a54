"""Turn one image file into the pixels that an image tower takes.

Safely: only the formats named here are tried (Pillow would hand an EPS to an interpreter), the
size is checked before memory is taken, and every failure is an ImageError with a plain reason.

Faithfully: the geometry is that of open_clip's own evaluation transform (torchvision's Resize and
CenterCrop, or its ResizeKeepRatio and CenterCropOrPad), except that only the part which survives
the crop is ever resampled, so a picture of 100,000 x 1 pixels costs no more than another. The
arithmetic is the same up to rounding (1/255 on pictures): since version 13, Pillow chooses by the
sizes whether it resamples rows or columns first.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image, UnidentifiedImageError

from clipsearch.errors import ImageError
from clipsearch.images import content_hash
from clipsearch.records import DecodedImage, Pixels, Preprocessing

pillow_heif.register_heif_opener()
# Pillow's own guard counts pixels before a JPEG is scaled down; ours follows (max_pixels).
Image.MAX_IMAGE_PIXELS = None

Image.init()  # loads the decoders that Pillow has here; AVIF is not in every build
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "HEIF", "AVIF")
    if name in Image.OPEN
)

_ORIENTATION, _DATE_TIME, _EXIF_IFD, _DATE_TIME_ORIGINAL = 0x0112, 0x0132, 0x8769, 0x9003

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture stand upright (EXIF 2.32, tag 274)."""

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def default_max_pixels() -> int:
    """The largest picture to decode: 256 megapixels, or less where memory is small.

    A decoded pixel can take 12 bytes on its way (RGBA, RGB and the composite), and two or more
    pictures are decoded at once, so a thirty-second of the memory in bytes is a safe count.
    """
    limit = 256_000_000
    with suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        limit = min(limit, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 32)
    return limit


def decode(
    path: bytes | str, preprocessing: Preprocessing, max_pixels: int | None = None
) -> DecodedImage:
    """Read, hash and decode one file of at most ``max_pixels`` (``default_max_pixels``).

    Raises ImageError if the file is no picture that can be decoded, and OSError if it cannot be
    opened or read at all.
    """
    with open(path, "rb") as file:
        digest = content_hash(file)
        if file.tell() == 0:
            raise ImageError("the file is empty")
        file.seek(0)
        with _plain_reasons():
            limit = max_pixels or default_max_pixels()
            image, width, height, taken_at = _open_upright(file, preprocessing, limit)
            pixels = fit(image, preprocessing)
    return DecodedImage(pixels, digest, width, height, taken_at)


def upright(path: bytes | str, preprocessing: Preprocessing) -> Image.Image:
    """One picture as RGB, upright, as ``decode`` has it before it is resized and cropped.

    Raises as ``decode``.
    """
    with open(path, "rb") as file, _plain_reasons():
        return _open_upright(file, preprocessing, default_max_pixels())[0]


@contextmanager
def _plain_reasons() -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageError with a plain reason."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged metadata; the pixels are what counts here.
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("decoding it needs more memory than there is") from error
    except Exception as error:
        # A decoder fed with damaged data raises whatever it stumbles over (struct.error,
        # SyntaxError, ...). To the reader of the message they are all one thing.
        raise ImageError(_reason(error)) from error


def _open_upright(
    file: BinaryIO, preprocessing: Preprocessing, max_pixels: int
) -> tuple[Image.Image, int, int, str | None]:
    """Open as RGB and upright, at reduced resolution where the format offers that for free."""
    image: Image.Image = Image.open(file, formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are {width * height / 1e6:,.0f} megapixels; "
            f"the limit is {max_pixels / 1e6:,.0f}"
        )
    if image.format == "TIFF":
        image.load()  # this already turns it upright, and strikes the orientation from its EXIF
        width, height = image.size
    orientation, taken_at = _metadata(image)
    if image.format in ("JPEG", "MPO"):
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size at a fraction of the cost. Twice
        # the target keeps the final resampling's result: 0.18/255 away on average.
        longer = 2 * max(preprocessing.size)
        image.draft("RGB", (longer, longer))
    image = to_rgb(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return image, width, height, taken_at


def _metadata(image: Image.Image) -> tuple[int, str | None]:
    """EXIF orientation (1 if absent) and the time taken; damaged EXIF is no EXIF."""
    orientation, taken_at = 1, None
    with suppress(Exception):
        exif = image.getexif()
        orientation = int(exif.get(_ORIENTATION, 1))
        stamp = exif.get_ifd(_EXIF_IFD).get(_DATE_TIME_ORIGINAL) or exif.get(_DATE_TIME)
        taken_at = datetime.strptime(str(stamp)[:19], "%Y:%m:%d %H:%M:%S").isoformat()
    return orientation, taken_at


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency over white, more than 8 bits scaled down to 8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Grey values of 16 or 32 bits or float, ``(height, width)``, to 0..255.

    Unsigned 16-bit data spans 0..65535 by definition. Wider integers and floats have no such
    convention: what fits 0..1, 0..255 or 0..65535 is read so, the rest is stretched from its
    least to its greatest value.
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
            # torchvision's Resize with one number: the longer edge is truncated, not rounded.
            if width <= height:
                scaled_w, scaled_h = target_w, int(target_w * height / width)
            else:
                scaled_w, scaled_h = int(target_h * width / height), target_h
        case mode:
            ratios = (height / target_h, width / target_w)
            ratio = max(ratios) if mode == "longest" else min(ratios)
            if mode == "shortest":  # here open_clip is bicubic, whatever its configuration says
                resampling = Image.Resampling.BICUBIC
            scaled_w, scaled_h = max(1, round(width / ratio)), max(1, round(height / ratio))
    # The window of the scaled picture that is kept. Where the picture is larger, the offset is
    # CenterCrop's; where it is smaller (only "longest"), it is pasted on the fill colour.
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
    """Why Pillow gave up, in one line that does not speak of its own objects."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in any format that clipsearch reads"
    text = " ".join(str(error).split())
    return f"damaged picture ({text})" if text else f"damaged picture ({type(error).__name__})"
