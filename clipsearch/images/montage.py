"""Hits as one image: a grid of thumbnails, with rank and score under each."""

import io
import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from clipsearch.errors import UsageError
from clipsearch.paths import MARK, absolute_path
from clipsearch.records import Hit

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Extensions in lower case -> Pillow's name of the format."""

MOST = 1000
"""The most hits in one montage."""

_WIDTH = 2400
"""The width in pixels, at most about this; a few hits take less."""
_LARGEST, _SMALLEST, _GAP, _LINE = 224, 64, 12, 22
_PAPER, _INK, _SOFT, _NOTHING = "#fbfaf8", "#1d1f21", "#66696d", "#e2dfd9"


def format_of(name: str) -> str:
    """The format for a file's extension. Raises UsageError for an unknown one."""
    for end, kind in FORMATS.items():
        if name.lower().endswith(end):
            return kind
    raise UsageError(f"{name} is neither a PNG nor a JPEG", hint=f"End it in {', '.join(FORMATS)}.")


def montage(hits: Sequence[Hit], pictures: Mapping[bytes, bytes], kind: str) -> bytes:
    """An image file with the first ``MOST`` hits.

    pictures: thumbnails by absolute path; a hit without one becomes an empty square. kind: one of
    the values of ``FORMATS``.
    """
    shown = hits[:MOST]
    columns = min(len(shown), max(5, math.ceil(math.sqrt(1.5 * len(shown)))))
    edge = max(_SMALLEST, min(_LARGEST, _WIDTH // columns - _GAP))
    rows = math.ceil(len(shown) / columns)
    size = (columns * (edge + _GAP) + _GAP, rows * (edge + _LINE + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14 if edge >= 90 else 11)
    for n, hit in enumerate(shown):
        left = _GAP + n % columns * (edge + _GAP)
        top = _GAP + n // columns * (edge + _LINE + _GAP)
        draw.rectangle((left, top, left + edge - 1, top + edge - 1), _NOTHING)
        picture = pictures.get(absolute_path(hit))
        if picture is not None:
            square = Image.open(io.BytesIO(picture)).resize((edge, edge), Image.Resampling.BICUBIC)
            sheet.paste(square, (left, top))
        draw.text((left, top + edge + 3), f"{n + 1}", _SOFT, font)
        draw.text((left + edge, top + edge + 3), f"{hit.score:.3f}", _INK, font, anchor="ra")
    file = io.BytesIO()
    note = PngInfo()
    note.add_text("Comment", MARK)
    sheet.save(file, kind, quality=88, pnginfo=note, comment=MARK)
    return file.getvalue()
