"""Paths as the user would type them, and files that outlast a power cut."""

import os
from pathlib import Path
from typing import Any

import pytest

from clipsearch.paths import make_folder, shown_path, write_whole
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


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed from now on, in order: names of files and folders."""
    log: list[str] = []
    fsync, replace = os.fsync, os.replace

    def syncs(file: int) -> None:
        log.append(f"sync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        fsync(file)

    def replaces(source: Path, target: Path) -> None:
        log.append(f"rename to {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(os, "replace", replaces)
    return log


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc")


@needs_proc
def test_a_file_is_replaced_so_that_a_power_cut_leaves_the_old_or_the_new(
    here: Path, done: list[str]
) -> None:
    write_whole(here / "data" / "list.json", b"{}")
    made, written, *others = done
    assert made == "sync here"  # that has the folder
    assert written.startswith("sync .")
    assert written.endswith(".partial")
    assert others == ["rename to list.json", "sync data"]
    assert (here / "data" / "list.json").read_bytes() == b"{}"


@needs_proc
def test_each_folder_that_is_made_is_kept_by_the_one_above(here: Path, done: list[str]) -> None:
    make_folder(here / "a" / "b", 0o700)
    assert sorted(done) == ["sync a", "sync here"]
    make_folder(here / "a" / "b", 0o700)
    assert len(done) == 2


def test_a_folder_that_cannot_be_synced_is_no_error(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    make_folder(here / "a", 0o700)
    assert (here / "a").is_dir()
