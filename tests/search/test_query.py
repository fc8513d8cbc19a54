"""What a query says: weights, parts and the words for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import UsageError
from clipsearch.records import Filter
from clipsearch.search.query import (
    Class,
    Image,
    Probe,
    Query,
    SearchOptions,
    Stored,
    Text,
    read_part,
    scaled,
    weight_note,
    weighted,
)

# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_text", "weight", "what"),
    [
        ("a dog", 1, "a dog"),
        ("^2:a dog", 2, "a dog"),
        ("^0.5:a dog", 0.5, "a dog"),
        ("^.5:a dog", 0.5, "a dog"),
        ("^1:^2:a dog", 1, "^2:a dog"),
        ("16:9 screenshot", 1, "16:9 screenshot"),
        ("10:30 on a clock", 1, "10:30 on a clock"),
        ("3:10 to Yuma", 1, "3:10 to Yuma"),
        ("2:a dog", 1, "2:a dog"),
        ("x^2:1", 1, "x^2:1"),
        ("a dog: brown", 1, "a dog: brown"),
        ("-1:a dog", 1, "-1:a dog"),
        ("^2:two\nlines", 2, "two\nlines"),
    ],
)
def test_a_weight_stands_before_its_part(given_text: str, weight: float, what: str) -> None:
    assert weighted(given_text) == (weight, what)


@pytest.mark.parametrize("bad", ["^0:a dog", "^0.0:a dog", "^101:a dog", "^2:", "^2:  "])
def test_what_is_no_weight_is_a_usage_error(bad: str) -> None:
    with pytest.raises(UsageError, match="weight"):
        weighted(bad)


@given(st.text(max_size=20))
def test_any_text_has_a_weight_or_is_a_usage_error(given_text: str) -> None:
    try:
        weight, what = weighted(given_text)
    except UsageError:
        return
    assert 0 < weight <= 100
    assert given_text.endswith(what)
    if given_text.strip():
        assert weighted(f"^1:{given_text}") == (1, given_text)


@pytest.mark.parametrize("text", ["2:a dog", "2: a dog", ".5:@scratch", "2.:x:y"])
def test_who_writes_a_weight_as_before_is_told_how_it_is_written(text: str) -> None:
    assert f"'^{text}'" in (weight_note(text) or "")
    assert weighted(f"^{text}")[0] != 1


@pytest.mark.parametrize(
    "text", ["16:9 screenshot", "10:30 on a clock", "a dog", "^2:a dog", "2:", "at 2:a dog"]
)
def test_what_was_no_weight_before_is_answered_without_a_word(text: str) -> None:
    assert weight_note(text) is None


# -- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a dog", Text("a dog")),
        ("^2:a dog", Text("a dog", weight=2.0)),
        ("@scratch", Probe("scratch")),
        ("^2:@ scratch/deep ", Probe("scratch/deep", weight=2.0)),
        ("a dog @ home", Text("a dog @ home")),
    ],
)
def test_a_text_or_a_probe_is_read_from_what_was_typed(text: str, part: Text | Probe) -> None:
    assert read_part(text) == part


@pytest.mark.parametrize("text", ["", "  ", "b\udcff", "^0:a dog"])
def test_what_says_nothing_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        read_part(text)


def test_a_query_is_said_in_words() -> None:
    query = Query(
        (
            Text("a cat"),
            Text("snow", weight=2.0, role="unwanted"),
            Image("a/b.png", weight=0.5),
            Stored(17, role="good"),
            Stored(3, 1, role="bad"),
            Class("dog"),
            Probe("scratch/deep"),
        )
    )
    said = "a cat, not ^2:snow, ^0.5:a/b.png, like 17, unlike 1-3, dog, scratch/deep"
    assert query.said == said
    assert query.texts == ["a cat", "snow"]


def test_weights_are_multiplied() -> None:
    parts = scaled((Text("a cat"), Image("a.png", weight=3.0, role="bad")), 2.0)
    assert parts == (Text("a cat", weight=2.0), Image("a.png", weight=6.0, role="bad"))


@pytest.mark.parametrize(
    ("part", "has_aim"),
    [
        (Text("a cat"), True),
        (Stored(1, role="good"), True),
        (Text("a cat", role="unwanted"), False),
        (Stored(1, role="bad"), False),
    ],
)
def test_an_aim_is_what_is_wanted_or_good(part: Text | Stored, has_aim: bool) -> None:
    assert Query((part,)).has_aim == has_aim
    assert not Query(()).has_aim


def test_a_filter_or_a_class_leaves_pictures_out() -> None:
    assert not SearchOptions().is_filtered
    assert SearchOptions(only=Filter(b"sub")).is_filtered
    assert SearchOptions(class_name="cat").is_filtered
