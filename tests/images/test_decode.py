"""One file to pixels: right colors, upright, open_clip's geometry, and errors that say why."""

import hashlib
import io
import math
import os
import struct
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from clipsearch.errors import ImageError
from clipsearch.images import decode as decoding
from clipsearch.images.decode import decode, fit, read_origin, see
from clipsearch.images.limits import default_max_pixels
from clipsearch.images.scan import content_hash
from clipsearch.records import DecodedImage, Origin, Preprocessing, SeenImage

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.27, 0.28)
SMALL = Preprocessing((32, 32), MEAN, STD)
NO_LIMIT = 10**9

ORIENTATION, EXIF_IFD, DATE_TIME, DATE_TIME_ORIGINAL = 0x0112, 0x8769, 0x0132, 0x9003

WITH_EXIF = ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"]
ALL_FORMATS = [*WITH_EXIF, "GIF", "BMP", "DIB", "MPO"]


def available(names: list[str]) -> list[object]:
    """AVIF is not in every build of Pillow."""
    Image.init()
    return [
        pytest.param(name, marks=pytest.mark.skipif(name not in Image.SAVE, reason="not built in"))
        for name in names
    ]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quarters(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red, green, blue and yellow; no two of its orientations look alike."""
    blocks = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def corners(pixels: np.ndarray) -> np.ndarray:
    """The colors of the four quarters, shape (4, 3)."""
    return pixels[[2, 2, -3, -3], [2, -3, 2, -3]].astype(int)


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Every pixel different, but without the contrasts at which a resampling filter clips.

    Clipped values would make the result depend on whether rows or columns come first, which is
    Pillow's to choose.
    """
    width, height = size
    values = np.random.default_rng(seed).integers(80, 176, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def landscape(width: int, height: int) -> Image.Image:
    """Something like a photo: structure at every scale, and a little of the sensor's noise."""
    rng = np.random.default_rng(7)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (3, 7, 17, 51, 151, 401):
        grid = rng.normal(0, 60 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(grid[..., channel]).resize((width, height))
            total[..., channel] += np.asarray(layer)
    total += rng.normal(0, 4, total.shape).astype(np.float32)
    return Image.fromarray(np.clip(total + 120, 0, 255).astype(np.uint8))


@pytest.fixture
def decoded(tmp_path: Path) -> Callable[..., DecodedImage]:
    """Decode bytes through a file whose name says nothing of the format."""

    def decode_bytes(
        data: bytes, preprocessing: Preprocessing = SMALL, max_pixels: int = NO_LIMIT
    ) -> DecodedImage:
        path = tmp_path / "file.jpg"
        path.write_bytes(data)
        return decode(os.fsencode(path), preprocessing, max_pixels)

    return decode_bytes


Decoded = Callable[..., DecodedImage]


# ---------------------------------------------------------------- formats and modes


@pytest.mark.parametrize("kind", available(ALL_FORMATS))
def test_every_format_decodes_to_its_colours_whatever_its_name(kind: str, decoded: Decoded) -> None:
    picture = decoded(encoded(quarters(), kind))
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.pixels.dtype == np.uint8
    assert (picture.width, picture.height) == (64, 48)
    wanted = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]
    np.testing.assert_allclose(corners(picture.pixels), wanted, atol=4)


def test_a_path_may_be_text_as_well_as_bytes(photos: Path) -> None:
    as_text = decode(str(photos / "a.png"), SMALL, NO_LIMIT)
    as_bytes = decode(os.fsencode(photos / "a.png"), SMALL, NO_LIMIT)
    assert np.array_equal(as_text.pixels, as_bytes.pixels)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_one_counts(kind: str, decoded: Decoded) -> None:
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    data = encoded(red, kind, save_all=True, append_images=[blue])
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    np.testing.assert_allclose(corners(decoded(data).pixels), [[255, 0, 0]] * 4, atol=4)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return encoded(image, "PNG", transparency=b"\xff\x80")


HALF_RED = Image.new("RGBA", (40, 40), (255, 0, 0, 128))

TRANSPARENT = {
    "RGBA PNG": (lambda: encoded(HALF_RED, "PNG"), (255, 127, 127)),
    "RGBA WebP": (lambda: encoded(HALF_RED, "WEBP", lossless=True), (255, 127, 127)),
    "RGBA TIFF": (lambda: encoded(HALF_RED, "TIFF"), (255, 127, 127)),
    "LA PNG": (lambda: encoded(Image.new("LA", (40, 40), (0, 128)), "PNG"), (127, 127, 127)),
    "palette PNG": (palette_with_transparency, (255, 127, 127)),
    "palette GIF": (lambda: encoded(Image.new("P", (40, 40)), "GIF", transparency=0), (255,) * 3),
    "RGB PNG with a transparent color": (
        lambda: encoded(Image.new("RGB", (40, 40), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
        (255, 255, 255),
    ),
    "grey PNG with a transparent level": (
        lambda: encoded(Image.new("L", (40, 40), 9), "PNG", transparency=9),
        (255, 255, 255),
    ),
    "fully transparent black": (
        lambda: encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG"),
        (255, 255, 255),
    ),
    "opaque": (lambda: encoded(Image.new("RGBA", (40, 40), (9, 8, 7, 255)), "PNG"), (9, 8, 7)),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_is_seen_over_white(name: str, decoded: Decoded) -> None:
    make, colour = TRANSPARENT[name]
    np.testing.assert_allclose(corners(decoded(make()).pixels), [colour] * 4, atol=1)


def ramp(low: float, high: float, dtype: object) -> np.ndarray:
    """From ``low`` in the left column to ``high`` in the right one."""
    return np.tile(np.linspace(low, high, 64), (64, 1)).astype(dtype)


def check_ramp(pixels: np.ndarray) -> None:
    """A ramp over the whole range came out as 0..255: neither clipped nor flat."""
    row = pixels[16].astype(int)
    assert (row == row[:, :1]).all(), "grey"
    np.testing.assert_allclose(row[:, 0], np.linspace(2, 253, 32), atol=3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(kind: str, decoded: Decoded) -> None:
    image = Image.fromarray(ramp(0, 65535, np.uint16))
    assert image.mode == "I;16"
    check_ramp(decoded(encoded(image, kind)).pixels)


def big_endian(values: np.ndarray) -> bytes:
    raw = values.astype(">u2").tobytes()
    return encoded(Image.frombytes("I;16B", values.shape[::-1], raw), "TIFF")


def test_the_byte_order_of_sixteen_bits_makes_no_difference(decoded: Decoded) -> None:
    check_ramp(decoded(big_endian(ramp(0, 65535, np.uint16))).pixels)
    night = ramp(0, 200, np.uint16)  # nearly black, and to stay so
    little = decoded(encoded(Image.fromarray(night), "TIFF")).pixels
    assert little.max() <= 1
    assert np.array_equal(decoded(big_endian(night)).pixels, little)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 255), (0, 65535), (0, 10_000_000), (-3000, 3000)], ids=str
)
def test_wide_integers_are_read_by_their_range(low: int, high: int, decoded: Decoded) -> None:
    image = Image.fromarray(ramp(low, high, np.int32))
    assert image.mode == "I"
    check_ramp(decoded(encoded(image, "TIFF")).pixels)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 255), (0, 65535), (0, 1e9), (-1, 1)], ids=str
)
def test_floats_are_read_by_their_range(low: float, high: float, decoded: Decoded) -> None:
    image = Image.fromarray(ramp(low, high, np.float32))
    assert image.mode == "F"
    check_ramp(decoded(encoded(image, "TIFF")).pixels)


def test_a_dim_float_picture_stays_dim(decoded: Decoded) -> None:
    pixels = decoded(encoded(Image.fromarray(ramp(0, 0.5, np.float32)), "TIFF")).pixels
    assert 120 <= pixels.max() <= 128


def test_a_float_that_is_not_a_number_is_black(decoded: Decoded) -> None:
    values = ramp(0, 1, np.float32)
    values[:32] = np.nan
    pixels = decoded(encoded(Image.fromarray(values), "TIFF")).pixels
    assert pixels[4].max() == 0
    assert pixels[-4].max() > 240


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint16])
def test_one_single_grey_value_is_no_division_by_zero(dtype: object, decoded: Decoded) -> None:
    data = encoded(Image.fromarray(np.zeros((40, 40), dtype)), "TIFF")
    assert decoded(data).pixels.max() == 0


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_the_colours_it_stands_for(kind: str, decoded: Decoded) -> None:
    pixels = decoded(encoded(quarters().convert("CMYK"), kind)).pixels
    wanted = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]
    np.testing.assert_allclose(corners(pixels), wanted, atol=4)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {"compression": "group4"})])
def test_one_bit_is_black_and_white(kind: str, options: dict, decoded: Decoded) -> None:
    image = Image.new("1", (64, 64), 0)
    image.paste(1, (32, 0, 64, 64))
    pixels = decoded(encoded(image, kind, **options)).pixels
    assert corners(pixels).tolist() == [[0] * 3, [255] * 3, [0] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["L", "P", "YCbCr"])
def test_other_modes_become_rgb(mode: str, decoded: Decoded) -> None:
    image = quarters().convert(mode)
    pixels = decoded(encoded(image, "JPEG" if mode == "YCbCr" else "PNG")).pixels
    oracle = fit(image.convert("RGB"), SMALL)
    np.testing.assert_allclose(corners(pixels), corners(oracle), atol=4)


# ---------------------------------------------------------------- EXIF


def with_exif(image: Image.Image, kind: str, tags: dict[int, object], taken: object = "") -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    if taken:
        exif.get_ifd(EXIF_IFD)[DATE_TIME_ORIGINAL] = taken
    return encoded(image, kind, exif=exif.tobytes())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", available(WITH_EXIF))
def test_every_orientation_comes_out_upright(kind: str, orientation: int, decoded: Decoded) -> None:
    data = with_exif(quarters(), kind, {ORIENTATION: orientation})
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = decoded(data)
    assert (picture.width, picture.height) == upright.size
    assert np.array_equal(picture.pixels, fit(upright.convert("RGB"), SMALL))


@pytest.mark.parametrize(
    ("orientation", "as_seen"),
    list(enumerate(["RGBY", "GRYB", "YBGR", "BYRG", "RBGY", "BRYG", "YGBR", "GYRB"], start=1)),
)
def test_the_orientations_mean_what_the_standard_says(
    orientation: int, as_seen: str, decoded: Decoded
) -> None:
    colours = {"R": [255, 0, 0], "G": [0, 255, 0], "B": [0, 0, 255], "Y": [255, 255, 0]}
    pixels = decoded(with_exif(quarters(), "PNG", {ORIENTATION: orientation})).pixels
    assert corners(pixels).tolist() == [colours[letter] for letter in as_seen]


def test_a_large_jpeg_is_turned_like_a_small_one(decoded: Decoded) -> None:
    picture = decoded(with_exif(quarters((1600, 1200)), "JPEG", {ORIENTATION: 6}))
    assert (picture.width, picture.height) == (1200, 1600)
    wanted = [[0, 0, 255], [255, 0, 0], [255, 255, 0], [0, 255, 0]]
    np.testing.assert_allclose(corners(picture.pixels), wanted, atol=4)


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_an_orientation_that_does_not_exist_is_none(orientation: int, decoded: Decoded) -> None:
    plain = decoded(encoded(quarters(), "PNG"))
    odd = decoded(with_exif(quarters(), "PNG", {ORIENTATION: orientation}))
    assert np.array_equal(odd.pixels, plain.pixels)


@pytest.mark.parametrize("kind", available(WITH_EXIF))
def test_the_time_is_when_the_picture_was_taken(kind: str, decoded: Decoded) -> None:
    tags = {DATE_TIME: "2021:07:08 09:10:11"}
    data = with_exif(quarters(), kind, tags, "2019:05:04 03:02:01")
    assert decoded(data).taken_at == "2019-05-04T03:02:01"


def test_without_it_the_time_of_the_file_in_the_exif_must_do(decoded: Decoded) -> None:
    data = with_exif(quarters(), "JPEG", {DATE_TIME: "2021:07:08 09:10:11"})
    assert decoded(data).taken_at == "2021-07-08T09:10:11"


def test_a_picture_without_exif_tells_no_time(decoded: Decoded) -> None:
    assert decoded(encoded(quarters(), "JPEG")).taken_at is None


@pytest.mark.parametrize("stamp", ["0000:00:00 00:00:00", "yesterday", " " * 19, "2019:13:01 x"])
def test_a_date_that_is_none_is_ignored_and_the_rest_of_the_exif_is_not(
    stamp: str, decoded: Decoded
) -> None:
    picture = decoded(with_exif(quarters(), "JPEG", {ORIENTATION: 6}, stamp))
    assert picture.taken_at is None
    assert (picture.width, picture.height) == (48, 64)


# ---------------------------------------------------------------- camera and place

MAKE, MODEL, GPS_IFD = 0x010F, 0x0110, 0x8825
NORTH, EAST = (48.0, 51.0, 29.6), (2.0, 17.0, 40.2)
PARIS = {1: "N", 2: NORTH, 3: "E", 4: EAST}


def located(kind: str, gps: dict, tags: dict | None = None) -> bytes:
    """An image with a GPS directory as Pillow writes it."""
    image, exif = quarters(), Image.Exif()
    for tag, value in (tags or {}).items():
        exif[tag] = value
    exif.get_ifd(GPS_IFD).update(gps)
    return encoded(image, kind, exif=exif.tobytes())


def told(picture: DecodedImage) -> Origin:
    return Origin(picture.camera, picture.latitude, picture.longitude)


@pytest.fixture
def origin(tmp_path: Path, decoded: Decoded) -> Callable[[bytes], Origin]:
    """What an image tells, decoded and by its header alone, which must be the same."""

    def of(data: bytes) -> Origin:
        found = told(decoded(data))
        assert read_origin(os.fsencode(tmp_path / "file.jpg")) == found
        return found

    return of


Told = Callable[[bytes], Origin]


@pytest.mark.parametrize("kind", available(WITH_EXIF))
def test_camera_and_place_are_read_in_every_format(kind: str, origin: Told) -> None:
    found = origin(located(kind, PARIS, {MAKE: "Canon", MODEL: "Canon EOS 5D"}))
    assert found.camera == "Canon EOS 5D"
    assert found[1:] == pytest.approx((48.858222, 2.294500), abs=1e-6)


@pytest.mark.parametrize("kind", available(ALL_FORMATS))
def test_a_picture_that_tells_nothing_tells_nothing(kind: str, origin: Told) -> None:
    assert origin(encoded(quarters(), kind)) == Origin()


@pytest.mark.parametrize(
    ("north", "east", "signs"), [("N", "W", (1, -1)), ("S", "E", (-1, 1)), ("s\0", "w ", (-1, -1))]
)
def test_south_and_west_are_negative(
    north: str, east: str, signs: tuple[int, int], origin: Told
) -> None:
    found = origin(located("JPEG", {**PARIS, 1: north, 3: east}))
    assert found.latitude == pytest.approx(signs[0] * 48.858222, abs=1e-6)
    assert found.longitude == pytest.approx(signs[1] * 2.2945, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("Apple", "iPhone 13", "Apple iPhone 13"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("EASTMAN KODAK COMPANY", "Kodak Z712", "Kodak Z712"),
        ("HTC", "HTC_One", "HTC_One"),
        ("SONY\0\0\0", "  ILCE-7  \0", "SONY ILCE-7"),
        ("Ca\0n\x1b[31mon\x07", "X\n\t1", "Can[31mon X 1"),
        ("Leica", None, "Leica"),
        (None, "M10", "M10"),
        ("\0\0", " ", None),
        ("A" * 1000, "B" * 1000, f"{'A' * 100} {'B' * 100}"),
    ],
)
def test_make_and_model_are_one_name(
    make: object, model: object, camera: str | None, origin: Told
) -> None:
    tags = {tag: value for tag, value in ((MAKE, make), (MODEL, model)) if value is not None}
    assert origin(located("JPEG", {}, tags)).camera == camera


def rationals(*parts: tuple[int, int]) -> tuple[IFDRational, ...]:
    return tuple(IFDRational(*part) for part in parts)


NO_PLACE = {
    "no reference": {2: NORTH, 4: EAST},
    "one reference": {1: "N", 2: NORTH, 4: EAST},
    "latitude alone": {1: "N", 2: NORTH},
    "an unknown direction": {**PARIS, 3: "X"},
    "an empty direction": {**PARIS, 3: ""},
    "a zero denominator": {**PARIS, 2: rationals((48, 0), (51, 1), (29, 1))},
    "zero over zero": {**PARIS, 4: rationals((2, 1), (17, 1), (0, 0))},
    "too far north": {**PARIS, 2: (90.0, 0.0, 0.1)},
    "too far east": {**PARIS, 4: (181.0, 0.0, 0.0)},
    "minutes past the hour": {**PARIS, 2: (48.0, 99.0, 0.0)},
    "degrees alone": {**PARIS, 2: 48.0},
    "four numbers": {**PARIS, 2: (48.0, 51.0, 29.0, 1.0)},
    "a direction that is a number": {**PARIS, 1: 7},
    "where no place is known": {1: "N", 2: (0.0,) * 3, 3: "E", 4: (0.0,) * 3},
    "nothing": {},
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("case", NO_PLACE)
def test_what_is_no_place_is_none_and_the_rest_is_read(
    case: str, kind: str, origin: Told, decoded: Decoded
) -> None:
    data = located(
        kind, NO_PLACE[case], {MODEL: "M10", ORIENTATION: 6, DATE_TIME: "2021:07:08 09:10:11"}
    )
    assert origin(data) == Origin("M10")
    picture = decoded(data)
    assert (picture.width, picture.height) == (48, 64)
    assert picture.taken_at == "2021-07-08T09:10:11"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 1e308, "x", None, b"x"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_number_that_is_none_is_no_place(bad: object, at: int) -> None:
    exif = Image.Exif()  # Pillow writes no such file; others do
    exif[MAKE] = bad
    parts: list[object] = [1.0, 2.0, 3.0]
    parts[at] = bad
    exif._ifds[GPS_IFD] = {**PARIS, 2: tuple(parts)}
    assert decoding._origin(exif) == Origin("x" if bad == "x" else None)
    exif._ifds[GPS_IFD] = {**PARIS, 2: (1.0, 2.0, 3.0)}
    assert decoding._origin(exif).latitude == pytest.approx(1.034167, abs=1e-6)


@pytest.mark.parametrize("value", ["123", b"\x01\x02\x03", None, 48.5, (), {1: 2, 3: 4, 5: 6}])
def test_a_place_of_another_type_is_none(value: object) -> None:
    exif = Image.Exif()
    exif._ifds[GPS_IFD] = {**PARIS, 4: value}
    assert decoding._origin(exif) == Origin()


def test_the_poles_the_date_line_and_greenwich_are_places(origin: Told) -> None:
    for north, east in ((90.0, 180.0), (0.0, 180.0), (51.0, 0.0)):
        gps = {1: "S", 2: (north, 0.0, 0.0), 3: "W", 4: (east, 0.0, 0.0)}
        assert origin(located("JPEG", gps))[1:] == (-north, -east)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 200))
def test_damaged_gps_is_no_error(junk: bytes, at: int) -> None:
    data = bytearray(located("JPEG", PARIS, {MAKE: "Canon"}))
    start = data.index(b"Exif") + at
    data[start : start + len(junk)] = junk
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(bytes(data))
        _, latitude, longitude = read_origin(str(path))
    assert (latitude is None) == (longitude is None)
    if latitude is not None and longitude is not None:
        assert abs(latitude) <= 90
        assert abs(longitude) <= 180


def test_exif_behind_the_pixels_of_a_png_is_found_without_decoding_them(
    tmp_path: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = located("PNG", PARIS, {MODEL: "M10"})
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    chunk = data[at:end]
    late = data[:at] + data[end:-12] + chunk + data[-12:]
    expected = told(decoded(late))
    assert expected.camera == "M10"

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert read_origin(tmp_path / "file.jpg") == expected
    (tmp_path / "cut.png").write_bytes(late[: at + 20])
    assert read_origin(tmp_path / "cut.png") == Origin()


# ---------------------------------------------------------------- seen, and not decoded


@pytest.fixture
def seen(tmp_path: Path, decoded: Decoded) -> Callable[[bytes], SeenImage]:
    """What a file's header tells, which must be what decoding it tells."""

    def of(data: bytes) -> SeenImage:
        picture, found = decoded(data), see(os.fsencode(tmp_path / "file.jpg"))
        for name in ("content_hash", "width", "height", "taken_at"):
            assert getattr(found, name) == getattr(picture, name)
        assert found.origin == told(picture)
        return found

    return of


Seen = Callable[[bytes], SeenImage]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", available(WITH_EXIF))
def test_a_header_tells_what_decoding_tells(kind: str, orientation: int, seen: Seen) -> None:
    tags = {ORIENTATION: orientation, MODEL: "M10", DATE_TIME: "2021:07:08 09:10:11"}
    found = seen(located(kind, PARIS, tags))
    assert found.taken_at == "2021-07-08T09:10:11"
    if kind not in ("HEIF", "AVIF"):  # these turn with all programs
        assert found.alike == (orientation == 1)


@pytest.mark.parametrize("kind", available(ALL_FORMATS))
def test_a_plain_picture_looks_alike_everywhere(kind: str, seen: Seen) -> None:
    assert seen(encoded(quarters(), kind)).alike


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_does_not(name: str, seen: Seen) -> None:
    assert not seen(TRANSPARENT[name][0]()).alike


def test_nor_do_sixteen_bits(seen: Seen) -> None:
    assert not seen(encoded(Image.new("I;16", (40, 40), 700), "PNG")).alike


def test_seeing_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        monkeypatch.undo()
        data = located(kind, PARIS, {ORIENTATION: 6})
        monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
        (tmp_path / "x").write_bytes(data)
        assert see(tmp_path / "x").width == 48


def test_seeing_knows_no_picture_and_no_huge_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="not an image"):
        see(tmp_path / "x")
    (tmp_path / "x").write_bytes(encoded(quarters(), "PNG"))
    with pytest.raises(ImageError, match="megapixels"):
        see(tmp_path / "x", 64 * 48 - 1)
    with pytest.raises(FileNotFoundError):
        see(tmp_path / "none")


def test_the_header_of_no_picture_tells_nothing_and_of_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"not a picture")
    assert read_origin(tmp_path / "text.jpg") == Origin()
    with pytest.raises(FileNotFoundError):
        read_origin(tmp_path / "none.jpg")


def broken_offset() -> bytes:
    """EXIF whose sub-directory lies far behind its end."""
    directory = ImageFileDirectory_v2()
    directory[EXIF_IFD] = 1_000_000
    return b"Exif\0\0" + directory.tobytes()


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"junk"],
    ids=["garbage", "empty", "cut", "no EXIF at all"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_no_exif(kind: str, exif: bytes, decoded: Decoded) -> None:
    picture = decoded(encoded(quarters(), kind, exif=exif))
    assert picture.taken_at is None
    assert (picture.width, picture.height) == (64, 48)
    wanted = decoded(encoded(quarters(), kind)).pixels
    assert np.array_equal(picture.pixels, wanted)


def test_exif_that_points_behind_its_end_is_no_exif(decoded: Decoded) -> None:
    picture = decoded(encoded(quarters(), "JPEG", exif=broken_offset()))
    assert picture.taken_at is None
    assert np.array_equal(picture.pixels, decoded(encoded(quarters(), "JPEG")).pixels)


# ---------------------------------------------------------------- what is no image


NO_PICTURES = {
    "text": b"This is no picture.\n" * 20,
    "one byte": b"\xff",
    "zeros": bytes(1000),
    "HTML": b"<!DOCTYPE html><html><body>not found</body></html>",
    "PDF": b"%PDF-1.4\n1 0 obj<<>>endobj\n",
    "ZIP": b"PK\x03\x04" + bytes(60),
    "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100),
    "only a JPEG's first bytes": b"\xff\xd8\xff\xe0",
    "only a PNG's signature": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_is_no_picture_is_an_image_error(name: str, decoded: Decoded) -> None:
    with pytest.raises(ImageError, match=r"^(not an image|damaged image)") as raised:
        decoded(NO_PICTURES[name])
    assert "0x" not in str(raised.value), "speaks of Pillow's own objects"
    assert "\n" not in str(raised.value)


def test_an_empty_file_is_called_empty(decoded: Decoded) -> None:
    with pytest.raises(ImageError, match="the file is empty"):
        decoded(b"")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
@pytest.mark.parametrize("kind", available([k for k in ALL_FORMATS if k != "MPO"]))
def test_a_file_that_was_cut_short_is_an_image_error(
    kind: str, share: float, decoded: Decoded
) -> None:
    data = encoded(noise((200, 150)), kind)
    with pytest.raises(ImageError, match="image"):
        decoded(data[: int(share * len(data))])


def test_a_cut_file_is_an_error_also_where_its_exif_was_read(decoded: Decoded) -> None:
    for kind in ("PNG", "JPEG", "TIFF"):
        data = with_exif(noise((200, 150)), kind, {ORIENTATION: 6}, "2019:05:04 03:02:01")
        with pytest.raises(ImageError, match="damaged image"):
            decoded(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("kind", available(ALL_FORMATS))
def test_damage_gives_a_picture_or_an_image_error_and_nothing_else(
    kind: str, decoded: Decoded
) -> None:
    rng = np.random.default_rng(len(kind))
    whole = np.frombuffer(encoded(noise((40, 30)), kind), np.uint8)
    failed = 0
    for _ in range(25):
        data = whole.copy()
        where = rng.integers(0, min(len(data), 600), rng.integers(1, 8))
        data[where] = rng.integers(0, 256, len(where))
        try:
            assert decoded(data.tobytes(), max_pixels=10**6).pixels.shape == (32, 32, 3)
        except ImageError:
            failed += 1
    assert failed or kind in ("BMP", "DIB"), "nothing was damaged"


def test_postscript_is_not_interpreted(decoded: Decoded, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(quarters(), "EPS")
    Image.open(io.BytesIO(data))  # Pillow knows it
    ran: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **_: ran.append(args))
    with pytest.raises(ImageError, match="not an image in any format that clipsearch reads"):
        decoded(data)
    assert ran == []


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000"])
def test_formats_that_are_not_asked_for_are_not_tried(kind: str, decoded: Decoded) -> None:
    if kind not in Image.SAVE:
        pytest.skip("not in this build of Pillow")
    with pytest.raises(ImageError, match="not an image in any format"):
        decoded(encoded(quarters(), kind))


@pytest.mark.parametrize("error", [RuntimeError("two\n  lines"), struct.error(), KeyError("x")])
def test_whatever_a_decoder_raises_is_an_image_error_in_one_line(
    error: Exception, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(decoding, "fit", fail)
    with pytest.raises(ImageError, match=r"^damaged image \(\S.*\)$"):
        decoded(encoded(quarters(), "PNG"))


def test_a_lack_of_memory_is_an_image_error(
    decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "fit", fail)
    with pytest.raises(ImageError, match="memory"):
        decoded(encoded(quarters(), "PNG"))


def test_a_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode(os.fsencode(tmp_path / "gone.jpg"), SMALL, NO_LIMIT)
    with pytest.raises(OSError, match=r"irectory|denied"):
        decode(os.fsencode(tmp_path), SMALL, NO_LIMIT)


# ---------------------------------------------------------------- size


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, *chunks: bytes) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + png_chunk(b"IEND", b"")
    )


def bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1000, 0, 0, 54) + info + bytes(1000)


def gif_header(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x02\x44\x01\x00;"
    )


@pytest.mark.parametrize("header", [png_header, bmp_header, gif_header])
def test_a_huge_picture_is_refused_before_it_takes_time_or_memory(
    header: Callable[[int, int], bytes], decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", loaded.append)
    data = header(30_000, 30_000)
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"30000 x 30000 pixels are 900 megapixels.* 256$"):
        decoded(data, max_pixels=256_000_000)
    assert loaded == []
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)),
        png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(200_000_000), 9)),
        png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(200_000_000), 9)),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_a_bomb_beside_the_pixels_takes_no_memory(chunk: bytes, decoded: Decoded) -> None:
    """200 MB of nothing in 200 kB: whether there is an image then or not, it is not unpacked."""
    data = png_header(50, 60, chunk)
    tracemalloc.start()
    try:
        with suppress(ImageError):
            assert decoded(data).width == 50
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.process
def test_of_thousands_of_frames_only_the_first_is_decoded(decoded: Decoded) -> None:
    first, *others = (Image.new("L", (300, 300), shade) for shade in [9, *range(100, 200)])
    data = encoded(first, "GIF", save_all=True, append_images=others * 30, optimize=False)
    started = time.monotonic()
    assert int(decoded(data).pixels.max()) <= 12
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("tail", [b"PK\3\4" + bytes(500), b"<script>alert(1)</script>", b"%PDF-1"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_what_is_a_picture_and_something_else_too_is_a_picture(
    kind: str, tail: bytes, decoded: Decoded
) -> None:
    data = encoded(quarters((64, 48)), kind)
    np.testing.assert_array_equal(decoded(data + tail).pixels, decoded(data).pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_limit_is_the_last_size_that_is_decoded(kind: str, decoded: Decoded) -> None:
    data = encoded(quarters((2000, 1500)), kind)
    assert decoded(data, max_pixels=3_000_000).width == 2000
    with pytest.raises(ImageError, match=r"2000 x 1500 pixels are 3 megapixels; the limit is 3"):
        decoded(data, max_pixels=2_999_999)


def test_the_limit_follows_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    gigabyte = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}
    monkeypatch.setattr(os, "sysconf", gigabyte.__getitem__, raising=False)
    assert default_max_pixels() == 2**30 // 32
    gigabyte["SC_PHYS_PAGES"] = 2**24
    assert default_max_pixels() == 256_000_000
    monkeypatch.delattr(os, "sysconf")
    assert default_max_pixels() == 256_000_000


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_an_absurdly_long_picture_costs_no_more_than_another(
    size: tuple[int, int], mode: str, decoded: Decoded
) -> None:
    # Resampled as a whole it would have 22,400,000 x 224 pixels.
    preprocessing = Preprocessing((224, 224), MEAN, STD, resize_mode=mode)  # type: ignore[arg-type]
    data = encoded(Image.new("RGB", size, (10, 200, 30)), "PNG")
    started = time.monotonic()
    picture = decoded(data, preprocessing)
    assert time.monotonic() - started < 5
    assert (picture.width, picture.height) == size
    assert picture.pixels.shape == (224, 224, 3)
    assert picture.pixels[111, 111].tolist() == [10, 200, 30]


# ---------------------------------------------------------------- content


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_hash_is_that_of_the_files_bytes(kind: str, decoded: Decoded) -> None:
    data = encoded(noise((500, 400)), kind) + b"and something behind the end"
    assert decoded(data).content_hash == hashlib.blake2b(data, digest_size=20).digest()


def test_the_hash_starts_at_the_start_wherever_the_file_stands() -> None:
    data = os.urandom(1_000_000)
    file = io.BytesIO(data)
    file.seek(999)
    assert content_hash(file) == hashlib.blake2b(data, digest_size=20).digest()


# ---------------------------------------------------------------- geometry


SIZES = [(32, 32), (64, 48), (48, 64), (100, 33), (33, 100), (31, 33), (7, 5), (333, 47)]
SIZES += [(640, 480), (41, 640), (5, 1), (1, 1), (2, 3)]
EXTREME = [(3, 500), (500, 3), (1, 90)]


def open_clips(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """What open_clip's evaluation transform makes of it, without the normalisation."""
    transform = image_transform_v2(
        PreprocessCfg(
            size=preprocessing.size,
            mean=preprocessing.mean,
            std=preprocessing.std,
            interpolation=preprocessing.interpolation,
            resize_mode=preprocessing.resize_mode,
            fill_color=preprocessing.fill_color,
        ),
        is_train=False,
    )
    values = transform(image).numpy().transpose(1, 2, 0).astype(np.float64)
    pixels = (values * preprocessing.std + preprocessing.mean) * 255
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
    return np.rint(pixels).astype(int)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 24)], ids=str)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_the_geometry_is_open_clips(mode: str, size: tuple[int, int], interpolation: str) -> None:
    preprocessing = Preprocessing(
        size,
        MEAN,
        STD,
        interpolation,  # type: ignore[arg-type]
        mode,  # type: ignore[arg-type]
        fill_color=37,
    )
    # open_clip's own "longest" fails where the shorter side would be rounded to nothing.
    for n, picture_size in enumerate(SIZES + (EXTREME if mode != "longest" else [])):
        image = noise(picture_size, seed=n)
        ours, theirs = fit(image, preprocessing).astype(int), open_clips(image, preprocessing)
        assert ours.shape == theirs.shape == (*size, 3)
        # Only what is cropped may be rounded otherwise, and twice if it is stretched as well.
        allowed = 0 if mode != "shortest" else 2 if picture_size in EXTREME else 1
        assert np.abs(ours - theirs).max() <= allowed, picture_size


def test_a_whole_file_comes_out_as_open_clip_would_have_it(decoded: Decoded) -> None:
    image = noise((300, 200))
    preprocessing = Preprocessing((64, 64), MEAN, STD)
    theirs = open_clips(image, preprocessing)
    assert np.abs(decoded(encoded(image, "PNG"), preprocessing).pixels - theirs).max() <= 1


@pytest.mark.parametrize("size", [(3, 500), (500, 3)])
def test_where_open_clip_rounds_a_side_to_nothing_one_pixel_is_left(size: tuple[int, int]) -> None:
    preprocessing = Preprocessing((32, 32), MEAN, STD, resize_mode="longest", fill_color=200)
    pixels = fit(Image.new("RGB", size, "black"), preprocessing)
    assert np.count_nonzero(pixels[..., 0] == 0) == 32
    assert np.count_nonzero(pixels[..., 0] == 200) == 31 * 32


# ---------------------------------------------------------------- JPEG at reduced size


def test_a_large_jpeg_is_decoded_at_reduced_size_without_being_seen(
    decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(landscape(2400, 1600), "JPEG", quality=90)
    preprocessing = Preprocessing((224, 224), MEAN, STD)
    with Image.open(io.BytesIO(data)) as whole:
        full = fit(whole.convert("RGB"), preprocessing).astype(int)
    fitted: list[tuple[int, int]] = []

    def watched(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
        fitted.append(image.size)
        return fit(image, preprocessing)

    monkeypatch.setattr(decoding, "fit", watched)
    picture = decoded(data, preprocessing)
    assert fitted == [(1200, 800)]
    assert (picture.width, picture.height) == (2400, 1600)
    assert np.abs(picture.pixels - full).mean() < 1
    assert full.std() > 20, "there is something to be seen"


def test_a_jpeg_that_is_not_large_is_decoded_as_it_is(decoded: Decoded) -> None:
    data = encoded(landscape(600, 400), "JPEG", quality=90)
    preprocessing = Preprocessing((224, 224), MEAN, STD)
    with Image.open(io.BytesIO(data)) as whole:
        assert np.array_equal(
            decoded(data, preprocessing).pixels, fit(whole.convert("RGB"), preprocessing)
        )
