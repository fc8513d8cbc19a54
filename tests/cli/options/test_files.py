"""What a user names is written as one step, and never over what is not ours to overwrite."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_picture
from fakes import fake_spec, unit, unsynchronised

from clipsearch.cli.options import files
from clipsearch.errors import UsageError
from clipsearch.images.montage import montage
from clipsearch.images.scan import content_hash
from clipsearch.paths import MARK, is_marked
from clipsearch.records import EmbeddedImage, Hit, ImageFile
from clipsearch.storage import known
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.web.pages import contact_sheet

PAGE = f'<!doctype html>\n<meta name="generator" content="{MARK}">\nolder'


def collection(root: Path, index: Path | None = None) -> Path:
    """An index of one image, ``a.png``; beside it lies ``new.png``, which is not indexed."""
    root.mkdir()
    for seed, name in enumerate(["a.png", "new.png"]):
        make_picture(root / name, seed)
    (root / "failed.png").write_bytes(b"not a picture")
    with (root / "a.png").open("rb") as file:
        digest = content_hash(file)
    made = Store.create(index or root / FOLDER, root, fake_spec())
    with unsynchronised(made) as store, store.batch():
        store.add([EmbeddedImage(ImageFile(b"a.png", 1, 1), digest, 48, 40, None, unit(1))])
        store.add_failed(ImageFile(b"failed.png", 1, 1), "damaged")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two collections; the second has its index elsewhere and is not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    collection(folder / "photos")
    collection(folder / "other", folder / "index of other")
    return folder


@pytest.fixture
def other(made: Path, own_places: None) -> Path:
    """A collection with its index elsewhere, which is on the list."""
    known.remember(made / "index of other", made / "other")
    return made / "other"


@pytest.fixture
def photos(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A collection with its index inside, which is on the list; the current folder is another."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    root = Path(shutil.copytree(made / "photos", tmp_path / "photos"))
    known.remember(root / FOLDER, root)
    return root


def refused(path: Path, said: str, *, force: bool = False) -> None:
    """Neither a check nor a write lets the file be overwritten; it stays as it is."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UsageError, match=said):
        files.check(path, force=force)
    with pytest.raises(UsageError):
        files.write(path, "new", force=force)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_an_indexed_picture_is_never_overwritten(photos: Path, other: Path) -> None:
    Path("link.html").symlink_to(photos / "a.png")
    Path("folder").symlink_to(photos)
    for path in (
        *(photos / "a.png", photos / "failed.png", other / "a.png"),
        *(Path("link.html"), Path("folder/a.png"), Path("../photos/../photos/a.png")),
    ):
        for force in (False, True):
            refused(path, "is an image of the collection", force=force)


def test_a_picture_under_another_path_is_the_same_picture(photos: Path) -> None:
    os.link(photos / "a.png", "mounted elsewhere.png")  # as a bind mount shows it
    refused(Path("mounted elsewhere.png"), "is an image of the collection", force=True)


def test_a_picture_of_an_open_collection_is_safe_though_no_list_has_it(made: Path) -> None:
    files.check(made / "other" / "a.png", force=True)  # nobody knows
    with Store.open(made / "index of other") as store, pytest.raises(UsageError):
        files.check(made / "other" / "a.png", [store], force=True)


def test_what_clipsearch_did_not_write_is_overwritten_by_force_alone(photos: Path) -> None:
    Path("notes.html").write_text("mine")
    Path("link.html").symlink_to("notes.html")
    for path in (photos / "new.png", Path("notes.html"), Path("link.html")):
        refused(path, "already exists, and clipsearch did not write it")
        files.check(path, force=True)
        files.write(path, "new", force=True)
        assert path.read_text() == "new"
    assert Path("link.html").is_symlink()


def test_nothing_is_written_into_an_index(photos: Path, made: Path) -> None:
    Path("link").symlink_to(photos / FOLDER)
    (photos / FOLDER / "sub").mkdir()
    for path in (
        *(photos / FOLDER / name for name in (CATALOG, "page.html", "sub/page.html")),
        *(Path("link") / CATALOG, Path("link/page.html")),
        *(made / "index of other" / name for name in (CATALOG, "page.html")),
    ):
        for force in (False, True):
            refused(path, "is in an index folder", force=force)


def test_a_collection_that_cannot_be_read_keeps_its_files(photos: Path) -> None:
    catalog = photos / FOLDER / CATALOG
    catalog.write_bytes(b"garbage" * 1000)
    refused(photos / "a.png", "cannot tell whether", force=True)
    Path("page.html").write_text(PAGE)
    files.check(Path("page.html"))  # it lies elsewhere


def pages() -> Iterator[tuple[str, bytes]]:
    yield "page.html", contact_sheet.page([], [], {}, "snow", ["no match"], []).encode()
    hits = [Hit(1, b"a.png", Path("/root"), 0.5, 48, 40, None)]
    for name, kind in (("hits.png", "PNG"), ("hits.jpg", "JPEG")):
        yield name, montage(hits, {}, kind)


def test_our_own_pages_and_montages_are_written_over(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in pages():
        for path in (Path(name), photos / name):
            files.check(path)
            files.write(path, content)
            assert is_marked(path)
            files.check(path)
            files.write(path, content + b" ")
            assert path.read_bytes() == content + b" "
    assert capsys.readouterr().err.count("clipsearch: wrote ") == 12


def test_a_link_to_a_page_of_ours_stays_and_an_empty_file_is_taken(photos: Path) -> None:
    Path("page.html").write_text(PAGE)
    Path("link.html").symlink_to("page.html")
    files.write(Path("link.html"), PAGE + "newer")
    assert Path("link.html").is_symlink()
    assert Path("page.html").read_text() == PAGE + "newer"
    Path("empty").touch()  # as mktemp makes it
    files.write(Path("empty"), "new")


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_what_is_no_file_is_not_written_whatever_the_force(photos: Path) -> None:
    os.mkfifo("fifo")
    Path("nowhere.html").symlink_to("no such file")
    Path("loop.html").symlink_to("loop.html")
    Path("folder").mkdir()
    for name, said in (
        *(("fifo", "not a regular file"), ("/dev/null", "not a regular file")),
        *(("nowhere.html", "a broken symbolic link"), ("loop.html", "a broken symbolic link")),
        *(("folder", "cannot write folder"), ("no/such/page.html", "cannot write no/such")),
    ):
        refused(Path(name), said, force=True)
        with pytest.raises(UsageError, match="cannot write"):
            files.write(Path(name), "new", force=True)
    assert not Path("no such file").exists()


def test_a_file_that_came_meanwhile_is_kept(photos: Path) -> None:
    files.check(Path("page.html"))
    Path("page.html").write_text("mine")
    with pytest.raises(UsageError, match="clipsearch did not write it"):
        files.write(Path("page.html"), "new")
    assert Path("page.html").read_text() == "mine"


def test_a_write_that_fails_leaves_the_earlier_file(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("page.html").write_text(PAGE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"cannot write page\.html: No space left"):
        files.write(Path("page.html"), PAGE + "newer")
    assert Path("page.html").read_text() == PAGE
    assert os.listdir() == ["page.html"]


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of that kind there")
def test_a_page_is_no_wider_readable_than_the_one_before(photos: Path) -> None:
    files.write(Path("new.html"), PAGE)
    assert Path("new.html").stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o22))
    Path("new.html").chmod(0o600)
    files.write(Path("new.html"), PAGE)
    assert Path("new.html").stat().st_mode & 0o777 == 0o600


WRITES = re.compile(r"""\.write_(text|bytes)\(|open\([^)]*["'][wxa]b?\+?["']|\.save\(""")


def test_no_other_room_of_the_program_writes_what_a_user_names() -> None:
    package = Path(files.__file__).parents[2]
    sources = [*package.glob("cli/**/*.py"), *package.glob("web/**/*.py")]
    assert len(sources) > 40
    found = [path for path in sources if WRITES.search(path.read_text(encoding="utf-8"))]
    assert [path.name for path in found] == ["query.py"]  # ``saved.save``, in a file of our own
