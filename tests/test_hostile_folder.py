"""A folder as folders are: damaged files, strange names, loops, pipes, and locked doors."""

import base64
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ASK, Run, make_picture, run_here

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no such names"),
]

NOT_UTF_8 = b"not utf-8 \xff\xfe.png"

GOOD = [
    b"plain.png",
    b"UPPER.JPG",
    b"with space.png",
    b"-0.png",
    b"new\nline.png",
    b"tab\tquote\"'$(x).png",
    "emoji \N{CAT FACE} \N{SNOWMAN}.png".encode(),
    "right-to-left \N{RIGHT-TO-LEFT OVERRIDE}gpj.png".encode(),
    b"1/2/3/4/5/6/7/8/deep.png",
]

BAD = {
    b"empty.jpg": "the file is empty",
    b"text.jpg": "not an image in any format",
    b"truncated.jpg": "damaged image",
    b"huge.png": "30000 x 30000 pixels are 900 megapixels",
    b"two\nlines \x1b[2J.png": "not an image in any format",
}


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes that say they are a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Hostile:
    """The folder, the images in it that can be found, and the run that indexed it."""

    root: Path
    good: frozenset[bytes]
    index: "subprocess.CompletedProcess[bytes]"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Hostile:
    root = tmp_path_factory.mktemp("hostile") / "photos"
    (root / "1/2/3/4/5/6/7/8").mkdir(parents=True)
    here = os.fsencode(root)
    good = set(GOOD)
    for seed, name in enumerate(GOOD):
        make_picture(os.path.join(here, name), seed)
    try:
        make_picture(os.path.join(here, NOT_UTF_8), seed=len(GOOD))
        good.add(NOT_UTF_8)
    except OSError:
        pass  # macOS refuses such a name

    make_picture(root / "truncated.jpg", seed=20, size=(400, 300))
    os.truncate(root / "truncated.jpg", (root / "truncated.jpg").stat().st_size // 2)
    (root / "empty.jpg").touch()
    (root / "text.jpg").write_text("I am no image")
    (root / "huge.png").write_bytes(png_that_claims(30_000, 30_000))
    (root / "two\nlines \x1b[2J.png").write_bytes(b"nor am I")

    (root / "loop").symlink_to(root)
    (root / "itself.png").symlink_to(root / "itself.png")
    (root / "linked.png").symlink_to(root / "plain.png")
    (root / "folder.png").mkdir()
    os.mkfifo(root / "x.png")
    (root / "notes.txt").write_text("not looked at")
    make_picture(root / ".hidden.png", seed=30)

    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", "index", "photos", "--model", tiny_model],
        cwd=root.parent,
        capture_output=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            "CLIPSEARCH_DATA_DIR": str(root.parent / "data"),
            "CLIPSEARCH_CACHE_DIR": str(root.parent / "cache"),
        },
    )
    return Hostile(root, frozenset(good), done)


def shown(name: bytes) -> str:
    """A name on one line of a message."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name.decode())


def test_the_run_completes_and_names_every_failure_with_its_reason(hostile: Hostile) -> None:
    assert hostile.index.returncode == 0
    assert hostile.index.stdout == b""
    *failures, summary, untested = hostile.index.stderr.decode().splitlines()
    assert len(failures) == len(BAD)
    for name, reason in BAD.items():
        (line,) = (line for line in failures if f" {shown(name)}: " in line)
        assert line.startswith(f"clipsearch: skipping {shown(name)}: {reason}")
    assert summary.startswith(
        f"clipsearch: photos: {len(hostile.good)} added, "
        f"{len(BAD)} failed, 3 links not followed; {len(hostile.good)} embedded in "
    )
    assert untested.startswith("clipsearch: photos: untested on the domain everyday")


def test_everything_else_is_found_with_the_very_bytes_of_its_name(
    run: Run, hostile: Hostile
) -> None:
    done = run(*ASK, "snow", "-0", "-k", "100", cwd=hostile.root)
    assert (done.code, done.err) == (0, "")
    *names, last = done.out.split(b"\0")
    assert last == b""
    assert len(names) == len(hostile.good)
    assert set(names) == hostile.good
    plain = run(*ASK, "snow", "-k", "100", cwd=hostile.root)
    assert plain.out == done.out.replace(b"\0", b"\n")


def test_json_keeps_a_name_that_is_no_text_as_its_bytes(run: Run, hostile: Hostile) -> None:
    done = run(*ASK, "snow", "--json", "-k", "100", cwd=hostile.root)
    assert (done.code, done.err) == (0, "")
    paths = [json.loads(line)["path"] for line in done.out.decode("utf-8").split("\n")[:-1]]
    as_bytes = [base64.b64decode(path["bytes"]) for path in paths if isinstance(path, dict)]
    as_text = [path.encode() for path in paths if isinstance(path, str)]
    assert {*as_text, *as_bytes} == hostile.good
    assert as_bytes == [name for name in hostile.good if name == NOT_UTF_8]


@pytest.mark.parametrize("name", [b"-0.png", b"new\nline.png", GOOD[6], NOT_UTF_8])
def test_a_picture_of_any_name_can_be_searched_by(run: Run, hostile: Hostile, name: bytes) -> None:
    if name not in hostile.good:
        pytest.skip("this file system refuses the name")
    option = b"--image=" + name if name.startswith(b"-") else b"--image"
    arguments = [option] if name.startswith(b"-") else [option, name]
    done = run(*ASK, *arguments, "-0", "-k", "100", cwd=hostile.root)
    assert (done.code, done.err) == (0, "")
    assert set(done.out.split(b"\0")[:-1]) == hostile.good - {name}


def test_a_folder_deep_down_is_an_ordinary_folder(run: Run, hostile: Hostile) -> None:
    deep = hostile.root / "1/2/3/4/5/6/7/8"
    assert run(*ASK, "snow", cwd=deep).out == b"deep.png\n"
    expected = b"1/2/3/4/5/6/7/8/deep.png\n"
    assert run(*ASK, "snow", "--under", "1/2/3/4", cwd=hostile.root).out == expected


def test_failures_are_remembered_and_told_by_status(run: Run, hostile: Hostile) -> None:
    done = run("status", "--json", cwd=hostile.root)
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert record["images"] == len(hostile.good)
    failed = {entry["path"].encode(): entry["reason"] for entry in record["failed"]}
    assert failed.keys() == BAD.keys()
    assert all(failed[name].startswith(reason) for name, reason in BAD.items())
    text = run("status", cwd=hostile.root).out.decode()
    assert all(f"{shown(name)}: {reason}" in text for name, reason in BAD.items())
    assert "\x1b" not in text


def test_strictness_makes_old_failures_an_error_without_trying_them_again(
    run: Run, hostile: Hostile, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(hostile.root, tmp_path / "photos", symlinks=True, ignore=pipes))
    for options, code in (([], 0), (["--strict"], 2)):
        done = run("index", folder, *options)
        assert (done.code, done.out) == (code, b"")
        (line,) = done.err.splitlines()
        assert "embedded" not in line
        assert (
            f"{len(hostile.good)} unchanged, {len(BAD)} failed earlier and unchanged since"
        ) in line
    # Those that are gone are failures no more.
    for name in BAD:
        os.unlink(os.path.join(os.fsencode(folder), name))
    done = run("index", folder, "--strict")
    assert done.code == 0
    assert json.loads(run("status", "--json", folder).out)["failed"] == []


def pipes(folder: str, names: list[str]) -> list[str]:
    """What cannot be copied."""
    return [name for name in names if name == "x.png"]


PIECES = (
    *(b"\n", b"\r", b"\t", b"\x01", b"\x1b[2J", b"\x1b]0;x\x07", b"\x7f", b" ", b"\\"),
    *(b"\xff", b"\xc3", b"\xed\xa0\x80"),  # no UTF-8, and half a surrogate pair
    *(b"'", b'"', b"`x`", b"$(x)", b"$HOME", b";", b"|", b"*", b"?", b"[a]", b"{path}", b"%s"),
    *(b"--", b"-0", b"a.", b"..", b"~", b"#", b"CON"),
    *(b"&amp;", b"<b>", b"<img src=x onerror=alert(1)>"),
    *(c.encode() for c in "\u202e\u2066\u200b\u200f\u2028\x85\ufeff\ufffd"),
    *(c.encode() for c in ("\N{CAT FACE}", "e\u0301", "\u00e9")),
)


def hostile_names(count: int) -> set[bytes]:
    """Names that a file system may hold, put together from what has gone wrong before."""
    chance = random.Random(0)
    names = set()
    for n in range(count):
        pieces = [chance.choice(PIECES) for _ in range(chance.randint(1, 5))]
        name = b"".join(pieces) + b"%d.png" % n
        names.add(b"x" + name if name.startswith(b".") else name)  # or it would be hidden
    return names


def test_pictures_of_hundreds_of_hostile_names_are_found_told_and_shown(
    run: Run, tmp_path: Path, tiny_model: Path, tally: "Counter[str]"
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    make_picture(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    names = set()
    for n, name in enumerate(sorted(hostile_names(400))):
        with suppress(OSError), open(os.path.join(os.fsencode(root), name), "xb") as file:
            file.write(content + n.to_bytes(2, "big") if n % 4 else b"no picture")
            names.add(name)
    good = {name for n, name in enumerate(sorted(names)) if n % 4}
    assert len(names) > 300
    assert run_here("index", root, "--model", tiny_model) == 0
    done = run(*ASK, "snow", "-0", "-k", "1000", "--html", tmp_path / "page.html", cwd=root)
    assert (done.code, set(done.out.split(b"\0")[:-1])) == (0, good)
    done = run(*ASK, "snow", "--json", "-k", "1000", cwd=root)
    told = [json.loads(line)["path"] for line in done.out.splitlines()]
    as_bytes = {
        base64.b64decode(path["bytes"]) if isinstance(path, dict) else path.encode()
        for path in told
    }
    assert as_bytes == good
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert page.count("<b>") == 0
    status = run("status", cwd=root)
    assert status.code == 0
    for said in (status.out.decode(), status.err, done.err):
        assert {c for c in said if not c.isprintable()} <= {"\n"}
    tally["hostile names tried"] += len(names)


# -- locked doors ------------------------------------------------------------------------------

WITHOUT_A_MASTER_KEY = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""No door is locked to the superuser, unless he gives that away (see capabilities(7))."""


@dataclass(frozen=True)
class Locked:
    """A collection, and the program as someone who may not do everything."""

    root: Path
    command: list[str]


@pytest.fixture
def locked(hostile: Hostile, tmp_path: Path) -> Iterator[Locked]:
    python = [sys.executable]
    if os.geteuid() == 0:
        if sys.platform != "linux":
            pytest.skip("no door is locked to the superuser")
        python += ["-c", WITHOUT_A_MASTER_KEY]
    door = tmp_path / "door"
    door.mkdir(mode=0)
    probe = [*python, "-c", f"import os; os.listdir({os.fspath(door)!r})"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        pytest.skip("no door is locked here")
    root = Path(shutil.copytree(hostile.root, tmp_path / "photos", symlinks=True, ignore=pipes))
    yield Locked(root, [*python, "-m", "clipsearch"])
    for folder in (door, root, root / ".clipsearch", root / "1"):
        if folder.exists():
            folder.chmod(0o755)


def lock(collection: Path) -> None:
    """Take the right to write from the collection and its index."""
    for path in (*(collection / ".clipsearch").iterdir(), collection / ".clipsearch", collection):
        path.chmod(0o555)


def test_a_folder_that_cannot_be_read_is_named_and_its_pictures_stay(
    run_process: Run, locked: Locked
) -> None:
    (locked.root / "1").chmod(0)
    (locked.root / "plain.png").unlink()
    done = run_process("index", locked.root, command=locked.command)
    assert (done.code, done.out) == (2, b"")
    first, summary = done.err.splitlines()
    assert first == "clipsearch: cannot read 1: Permission denied"
    assert "photos: 1 removed, " in summary
    found = run_process(*ASK, "snow", "-0", "-k", "100", cwd=locked.root, command=locked.command)
    assert (found.code, found.err) == (0, "")
    assert b"1/2/3/4/5/6/7/8/deep.png" in found.out.split(b"\0")
    assert b"plain.png" not in found.out.split(b"\0")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_folder_in_which_nothing_can_be_written_can_be_searched(
    run: Run, run_process: Run, locked: Locked, damaged: bool
) -> None:
    search = [*ASK, "snow", "--json", "-k", "100"]
    expected = run(*search, cwd=locked.root)
    if damaged:
        os.truncate(locked.root / ".clipsearch" / "vectors.faiss", 100)
    lock(locked.root)
    done = run_process(*search, cwd=locked.root, command=locked.command)
    assert (done.code, done.out) == (0, expected.out)
    lines = done.err.splitlines()
    assert len(lines) == damaged
    assert all("the catalog was searched instead" in line for line in lines)


@pytest.fixture
def disc(hostile: Hostile, tmp_path: Path) -> Iterator[Path]:
    """The collection on a file system that is mounted for reading alone."""
    place = tmp_path / "disc"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", os.fspath(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        shutil.copytree(hostile.root, place / "photos", symlinks=True, ignore=pipes)
        subprocess.run(["mount", "-o", "remount,ro", os.fspath(place)], check=True)
        yield place / "photos"
    finally:
        subprocess.run(["umount", os.fspath(place)], check=True)


def test_a_read_only_medium_is_searched_and_told_of(run: Run, hostile: Hostile, disc: Path) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (disc / "x").touch()
    search = [*ASK, "snow", "-0", "-k", "100"]
    assert run(*search, cwd=disc) == run(*search, cwd=hostile.root)
    there, here = (json.loads(run("status", "--json", cwd=at).out) for at in (disc, hostile.root))
    assert (there["images"], there["failed"]) == (here["images"], here["failed"])
    done = run("verify", "--sample", "0", cwd=disc)
    assert (done.code, "no damage found" in done.err) == (0, True)
    done = run("index", disc)
    assert (done.code, done.out) == (2, b"")
    assert "Read-only file system" in done.err
    assert "--index DIR" in done.err


def test_an_index_that_cannot_be_written_is_refused_with_the_way_out(
    run_process: Run, locked: Locked, tiny_model: Path
) -> None:
    kept = locked.root / ".clipsearch"
    lock(locked.root)
    done = run_process("index", locked.root, command=locked.command)
    assert (done.code, done.out) == (2, b"")
    assert "cannot write" in done.err
    assert "--index DIR" in done.err
    locked.root.chmod(0o755)
    kept.chmod(0o755)
    shutil.rmtree(kept)
    locked.root.chmod(0o555)
    done = run_process("index", locked.root, "--model", tiny_model, command=locked.command)
    assert (done.code, done.out) == (2, b"")
    assert "cannot make the index folder" in done.err
    assert "--index DIR" in done.err
