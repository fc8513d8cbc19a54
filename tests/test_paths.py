"""Paths as the user would type them."""

import os
from pathlib import Path
from typing import Any

import pytest

from clipsearch.paths import shown_path, write_whole
from clipsearch.records import Hit


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which the hits below lie."""
    (tmp_path / "here" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def hit(path: bytes, root: Path, *, score: float = 0.25, **known: Any) -> Hit:
    return Hit(7, path, root, score, 640, 480, known.pop("taken_at", None), **known)


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        ("here", b"x.png"),
        ("here/photos", b"photos/x.png"),
        ("here and there", b"{}/here and there/x.png"),
        ("elsewhere", b"{}/elsewhere/x.png"),
        ("", b"{}/x.png"),
    ],
)
def test_a_path_is_shown_as_the_user_would_type_it(
    here: Path, tmp_path: Path, root: str, shown: bytes
) -> None:
    expected = shown.replace(b"{}", os.fsencode(tmp_path))
    assert shown_path(hit(b"x.png", tmp_path / root)) == expected


def test_every_shown_path_opens_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "photos" / "x.png").write_bytes(b"content")
    for folder in (here, here / "photos", here.parent, Path(here.anchor)):
        monkeypatch.chdir(folder)
        with open(shown_path(hit(b"x.png", here / "photos")), "rb") as file:
            assert file.read() == b"content"


@pytest.mark.skipif(os.name == "nt", reason="no links for everybody there")
def test_a_file_is_replaced_through_no_link_that_somebody_planted(here: Path) -> None:
    (here / "letter.txt").write_text("mine")
    for name in (f"list.json.{os.getpid()}", "list.json.tmp", "list.json.partial", ".list.json"):
        (here / name).symlink_to("letter.txt")
    planted = set(os.listdir(here))
    write_whole(here / "list.json", b"whole")
    assert (here / "list.json").read_bytes() == b"whole"
    assert (here / "list.json").stat().st_mode & 0o777 == 0o600
    assert (here / "letter.txt").read_text() == "mine"
    assert set(os.listdir(here)) == planted | {"list.json"}
    write_whole(here / ("x" * 255), b"a name as long as any may be")
