"""Tables: one line a row at any width, and paths that keep their ending."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from clipsearch.cli.render.table import Table, draw, fit, shorten_path


def drawn(table: Table, width: int) -> list[str]:
    screen = Console(width=width, file=io.StringIO(), markup=False, highlight=False)
    draw(table, screen)
    lines: list[str] = screen.file.getvalue().splitlines()
    return lines


@pytest.mark.parametrize(
    ("path", "cells", "short"),
    [
        ("a/mountain_pico.jpg", 19, "a/mountain_pico.jpg"),
        ("mountain_seen_from_pico.jpg", 19, "mountain...pico.jpg"),
        ("a/mountain_seen_from_pico.jpg", 24, "a/mountain_...m_pico.jpg"),
        ("photos/2024/holiday/mountain_pico.jpg", 32, "photos...liday/mountain_pico.jpg"),
        ("photos/2024/holiday/mountain_pico.jpg", 16, "mounta...ico.jpg"),
        ("写真/富士山の写真.jpeg", 16, "富士山...真.jpeg"),
    ],
)
def test_a_path_is_shortened_in_the_middle_of_its_name(path: str, cells: int, short: str) -> None:
    assert shorten_path(path, cells) == short


@given(st.text("aé写😀/.\u0301", max_size=60), st.integers(8, 70))
def test_a_shortened_path_fits_and_has_both_ends(path: str, cells: int) -> None:
    short = shorten_path(path, cells)
    assert cell_len(short) <= cells
    if cell_len(path) <= cells:
        assert short == path
    else:
        assert cell_len(short) >= cells - 4  # a wide character may not fit, on either side
        assert path.endswith(short[-2:].lstrip("."))


FOLDERS = Table(
    "The folders",
    ("folder", "images", "accuracy", "given to"),
    [("a", "12", "90.0%", "dog 9, cat 2, a very long class name 1"), ("b", "1", "-", "dog 1")],
    left=(0, 3),
    gives_way=(2, 1),
)


def test_columns_give_way_one_by_one_and_the_widest_words_are_cut_last() -> None:
    assert drawn(FOLDERS, 80)[:3] == [
        "The folders",
        "folder  images  accuracy  given to",
        "a           12     90.0%  dog 9, cat 2, a very long class name 1",
    ]
    assert drawn(FOLDERS, 60)[1:3] == [
        "folder  images  given to",
        "a           12  dog 9, cat 2, a very long class name 1",
    ]
    assert drawn(FOLDERS, 40)[1:3] == [
        "folder  given to",
        "a       dog 9, cat 2, a very long cla...",
    ]


def test_what_still_has_no_room_is_cropped_and_not_folded() -> None:
    numbers = Table("", ("of", "shown", "right"), [("1", "1,000,000", "1,000,000")], left=(0,))
    assert [len(line) for line in drawn(numbers, 10)] == [10, 10]


def test_the_last_part_of_a_line_is_shortened_first() -> None:
    parts = [("strong match",), ("10 of 48 (-k shows more)", "10 of 48"), ("untested here", "")]
    assert fit(parts, 80) == "strong match · 10 of 48 (-k shows more) · untested here"
    assert fit(parts, 54) == "strong match · 10 of 48 (-k shows more)"
    assert fit(parts, 30) == "strong match · 10 of 48"
    assert fit(parts, 5) == "strong match · 10 of 48"
