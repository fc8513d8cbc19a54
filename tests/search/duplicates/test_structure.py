"""Structure: a changed copy agrees with its image, and another image does not."""

import numpy as np
import pytest
from conftest import SAMPLES
from PIL import Image, ImageDraw, ImageEnhance

from clipsearch.images import decode
from clipsearch.records import Pixels
from clipsearch.search.duplicates import structure
from clipsearch.search.duplicates.likeness import SMALL

NAMES = [
    *("giant_panda/panda_walking.jpg", "giant_panda/panda_on_log.jpg"),
    *("mountain/aizkorri.jpg", "mountain/picos_de_europa.jpg", "mountain/french_alps.jpg"),
    *("lighthouse/grey_lighthouse.png", "lighthouse/red_and_white_lighthouse.png"),
]


def small(picture: Image.Image) -> Pixels:
    return decode.fit(decode.to_rgb(picture), SMALL)


def cropped(picture: Image.Image, left: float, top: float, right: float, below: float) -> Pixels:
    w, h = picture.size
    box = (round(left * w), round(top * h), round((1 - right) * w), round((1 - below) * h))
    return small(picture.crop(box))


def resized(picture: Image.Image, share: float) -> Image.Image:
    return picture.resize((round(picture.width * share), round(picture.height * share)))


CHANGES = {
    "half": lambda picture: small(resized(picture, 0.5)),
    "brighter": lambda picture: small(ImageEnhance.Brightness(picture).enhance(1.15)),
    "less contrast": lambda picture: small(ImageEnhance.Contrast(picture).enhance(0.8)),
    "10% off all sides": lambda picture: cropped(picture, 0.05, 0.05, 0.05, 0.05),
    "5% off a corner": lambda picture: cropped(picture, 0.05, 0.05, 0, 0),
    "4% off a side": lambda picture: cropped(picture, 0, 0.04, 0.04, 0),
}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [decode.to_rgb(Image.open(SAMPLES / name)) for name in NAMES]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_agrees_and_no_other_picture_does(change, pictures) -> None:
    originals = structure.windows(np.stack([small(picture) for picture in pictures]))
    copies = structure.windows(np.stack([change(picture) for picture in pictures]))
    found = structure.best_agreement(originals, copies)
    np.testing.assert_allclose(found, structure.best_agreement(copies, originals).T, atol=1e-5)
    own = np.diagonal(found)
    assert own.min() > 0.85
    others = found[~np.eye(len(pictures), dtype=bool)]
    assert others.max() < 0.7


def test_a_picture_agrees_with_itself_and_a_flat_one_with_nothing(pictures) -> None:
    flat = np.full((structure.SIDE, structure.SIDE, 3), 90, np.uint8)
    windows = structure.windows(np.stack([small(pictures[0]), flat, flat]))
    found = structure.best_agreement(windows, windows)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 0, 0], [0, 0, 0]], atol=1e-5)


def test_no_pictures() -> None:
    nothing = structure.windows(np.empty((0, structure.SIDE, structure.SIDE, 3), np.uint8))
    assert structure.best_agreement(nothing, nothing).shape == (0, 0)


def page(seed: int) -> Image.Image:
    """Lines of words, none of which is that of another page."""
    random = np.random.default_rng(seed)
    paper = Image.new("RGB", (850, 1100), "white")
    draw = ImageDraw.Draw(paper)
    for y in range(90, 1010, 28):
        x = 90
        while x < 740:
            width = int(random.integers(10, 90))
            draw.rectangle((x, y, min(x + width, 750), y + 14), fill="black")
            x += width + 12
    return paper


def test_pages_that_differ_are_not_the_same_and_their_copies_are() -> None:
    pages = [page(seed) for seed in range(12)]
    these = np.stack([small(one) for one in pages])
    assert structure.looks_drawn(these).all()
    windows = structure.windows(these)
    assert structure.best_agreement(windows, windows).min() > 0.7  # so much alike are they
    assert (structure.confirmed(these, these, 0.7) == np.eye(12, dtype=bool)).all()
    copies = np.stack([small(resized(one, 0.6)) for one in pages])
    assert (structure.confirmed(these, copies, 0.7) == np.eye(12, dtype=bool)).all()


def test_photographs_are_not_taken_for_drawn(pictures) -> None:
    found = structure.looks_drawn(np.stack([small(picture) for picture in pictures]))
    assert found.tolist() == [name.endswith(".png") for name in NAMES]  # the drawings
    assert structure.looks_drawn(np.empty((0, 32, 32, 3), np.uint8)).tolist() == []
