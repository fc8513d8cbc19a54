"""What may have been meant by a mistyped name."""

import unicodedata

import pytest
from fakes import ESCAPES
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import UsageError
from clipsearch.text import close, did_you_mean, number_of, printable, shortened, size_text

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


def test_printable_leaves_text_of_all_languages_as_it_is() -> None:
    text = "Ærø 写真 שלום مرحبا 🏔 e\u0301 [bold] \\ :smile: a b"
    assert printable(text) == text


def test_printable_takes_out_what_a_terminal_would_obey() -> None:
    shown = printable(ESCAPES)
    assert len(shown) == len(ESCAPES)
    assert shown == "�[2Jred��1m���txt.exe������" + "�"


@given(st.text(st.characters()))
def test_printable_text_is_one_line_and_obeys_nobody(text: str) -> None:
    shown = printable(text)
    categories = {unicodedata.category(character) for character in shown}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1449, "1.4 kB"),
        (999_900, "999.9 kB"),
        (999_960, "1.0 MB"),
        (1_400_000, "1.4 MB"),
        (350_000_000_000, "350.0 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (2_500_000_000_000_000, "2500.0 TB"),
    ],
)
def test_sizes_are_said_as_people_say_them(count: int, text: str) -> None:
    assert size_text(count) == text


@given(st.text(max_size=200), st.integers(10, 100))
def test_a_long_text_is_repeated_by_its_beginning_and_its_end(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) == min(len(text), most)
    if len(text) > most:
        beginning, _, end = short.partition("...")
        assert text.startswith(beginning[: most // 2])
        assert text.endswith(end[-(most // 4) :])


def test_no_error_is_as_long_as_what_it_repeats() -> None:
    error = UsageError(f"'{10_000 * 'x'}' is nothing", hint=10_000 * "y")
    assert len(str(error)) == len(error.hint) == 1000
    assert str(error).endswith("x' is nothing")


def test_a_number_agrees_with_its_noun() -> None:
    told = [number_of(count, "image") for count in (0, 1, 2, 1200)]
    assert told == ["0 images", "1 image", "2 images", "1,200 images"]
    assert number_of(3, "copy", "copies") == "3 copies"
