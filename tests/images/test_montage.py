"""All hits in one image: each in its place, whatever the number, in a bounded size."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.errors import UsageError
from clipsearch.images.decode import jpeg
from clipsearch.images.montage import MOST, format_of, montage
from clipsearch.paths import absolute_path
from clipsearch.records import Hit


def hits_of(count: int) -> list[Hit]:
    return [Hit(n, b"%d.png" % n, Path("/root"), 1 - n / 5000, 48, 40, None) for n in range(count)]


def coloured(shade: int) -> bytes:
    return jpeg(np.full((224, 224, 3), (shade, 0, 255 - shade), np.uint8))


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_each_picture_is_in_its_place_and_a_missing_one_is_left_empty() -> None:
    hits = hits_of(7)
    pictures = {absolute_path(hit): coloured(30 * n) for n, hit in enumerate(hits) if n != 3}
    image = opened(montage(hits, pictures, "PNG"))
    assert image.format == "PNG"
    edge, gap, line = 224, 12, 22
    assert image.size == (5 * (edge + gap) + gap, 2 * (edge + line + gap) + gap)
    for n in range(7):
        middle = (
            gap + n % 5 * (edge + gap) + edge // 2,
            gap + n // 5 * (edge + line + gap) + edge // 2,
        )
        wanted = (226, 223, 217) if n == 3 else (30 * n, 0, 255 - 30 * n)
        assert image.getpixel(middle) == pytest.approx(wanted, abs=4)
        under = image.crop((middle[0] - 112, middle[1] + 112, middle[0] + 112, middle[1] + 134))
        assert len(under.getcolors(10_000)) > 5  # rank and score


@pytest.mark.parametrize("count", [1, 4, 60, MOST, MOST + 500])
def test_its_size_is_bounded(count: int) -> None:
    image = opened(montage(hits_of(count), {}, "JPEG"))
    assert image.format == "JPEG"
    assert image.width <= 3000
    assert image.height <= 4000


def test_the_name_says_which_format() -> None:
    assert [format_of(name) for name in ("a.png", "B.JPG", "c.jpeg")] == ["PNG", "JPEG", "JPEG"]
    with pytest.raises(UsageError, match=r"sheet\.webp is neither a PNG nor a JPEG"):
        format_of("sheet.webp")
