"""The image in the README: small, and of images that are free to show."""

from PIL import Image
from screenshot import PICTURE, SAMPLES, free_samples


def test_the_picture_is_small() -> None:
    assert 0 < PICTURE.stat().st_size < 300_000
    with Image.open(PICTURE) as picture:
        assert picture.width >= 1000


def test_it_shows_images_that_anyone_may_use() -> None:
    rows = (SAMPLES / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines()
    samples = free_samples()
    assert len(samples) > 40
    for name in samples:
        assert (SAMPLES / name).is_file()
        (row,) = [row for row in rows if row.startswith(f"| {name} |")]
        assert "CC BY" not in row
