"""What may have been meant by a mistyped name."""

import pytest

from clipsearch.text import close, did_you_mean

NAMES = ["lighthouse", "house", "ViT-B-16", "jpeg"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lighthose", ["lighthouse"]),
        ("LIGHTHOUSES", ["lighthouse"]),
        ("huose", ["house"]),
        ("light", ["lighthouse"]),
        ("li", []),
        ("ViT-B-16", []),  # itself was not meant, since it was said
        ("vit-b16", ["ViT-B-16"]),
        ("jpgg", ["jpeg"]),
        ("zebra", []),
        ("", []),
    ],
)
def test_the_nearest_names_come_first_in_their_own_spelling(name: str, meant: list[str]) -> None:
    assert close(name, NAMES) == meant


def test_the_question_is_asked_only_where_there_is_something_to_ask() -> None:
    assert did_you_mean("cats", ["cat", "cart"]) == " (did you mean cat or cart?)"
    assert did_you_mean("cats", ["cat", "cart"], 1) == " (did you mean cat?)"
    assert did_you_mean("zebra", NAMES) == ""
