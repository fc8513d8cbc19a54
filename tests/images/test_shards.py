"""An archive's samples are told by its headers, and their bytes are read where they are."""

import gzip
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archives import interleaved, picture_bytes, samples, write_tar
from PIL import Image

from clipsearch.images import shards
from clipsearch.images.decode import decode, see
from clipsearch.images.shards import Shard
from clipsearch.records import Preprocessing, Span

SQUARE = Preprocessing((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read(path: Path) -> Shard:
    return shards.read(os.fsencode(path))


def test_members_are_grouped_by_key_wherever_they_are(tmp_path: Path) -> None:
    members = samples(tmp_path, range(5))
    write_tar(tmp_path / "a.tar", interleaved(members))
    found = read(tmp_path / "a.tar")
    assert (found.odd, found.damage) == ((), None)
    assert [sample.key for sample in found.samples] == [b"%09d" % n for n in range(5)]
    data = dict(members)
    for sample in found.samples:
        assert sample.members.keys() == {"jpg", "txt", "json"}
        assert sample.picture is sample.members["jpg"]
        for member in sample.members.values():
            with shards.opened(member.span) as file:
                assert file.read() == data[os.fsdecode(member.name)]
            assert member.mtime_ns == 1_700_000_000 * 10**9


def test_keys_are_those_of_webdataset(tmp_path: Path) -> None:
    names = ["a.JPG", "a.b.png", "dir.x/sub/c.jpg", "e.cls", "e.webp", b"caf\xe9.jpg"]
    write_tar(tmp_path / "a.tar", [(name, b"x") for name in names])
    found = read(tmp_path / "a.tar")
    assert [(sample.key, list(sample.members)) for sample in found.samples] == [
        (b"a", ["jpg", "b.png"]),
        (b"dir.x/sub/c", ["jpg"]),
        (b"e", ["cls", "webp"]),
        (b"caf\xe9", ["jpg"]),
    ]
    assert [sample.picture and sample.picture.name for sample in found.samples] == [
        b"a.JPG",
        b"dir.x/sub/c.jpg",
        b"e.webp",
        b"caf\xe9.jpg",
    ]


def test_what_belongs_to_no_sample_is_named(tmp_path: Path) -> None:
    odd: dict[str | bytes, str] = {
        "../up.jpg": "its path leads outside the archive",
        "a/../../up.jpg": "its path leads outside the archive",
        "/etc/up.jpg": "its path leads outside the archive",
        "README": "its name has no key and extension",
        ".hidden": "its name has no key and extension",
    }
    members: list[tuple[str | bytes, bytes | None]] = [(name, b"x") for name in odd]
    members += [("one.jpg", b"first"), ("one.jpg", b"second"), ("link.jpg", None)]
    write_tar(tmp_path / "a.tar", members)
    found = read(tmp_path / "a.tar")
    assert dict(found.odd) == {
        **{os.fsencode(name): why for name, why in odd.items()},
        b"one.jpg": "a second member of that name",
        b"link.jpg": "a link",
    }
    (sample,) = found.samples
    with shards.opened(sample.members["jpg"].span) as file:
        assert file.read() == b"first"


@pytest.mark.parametrize("at", ["in a member", "in a header", "at a member's end", "of the end"])
def test_what_is_whole_before_the_cut_is_there(tmp_path: Path, at: str) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [(f"{n}.jpg", b"x" * 512) for n in range(4)])
    whole, damage = {
        "in a member": (2 * 1024 + 600, "it is cut short within 2.jpg"),
        "in a header": (2 * 1024 + 100, "its end is missing"),
        "at a member's end": (2 * 1024, "its end is missing"),
        "of the end": (4 * 1024, "its end is missing"),
    }[at]
    os.truncate(path, whole)
    found = read(path)
    assert found.damage == damage
    assert len(found.samples) == whole // 1024


def test_a_damaged_header_ends_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [(f"{n}.jpg", b"x" * 512) for n in range(4)])
    data = bytearray(path.read_bytes())
    data[2048 + 150] ^= 0xFF  # in the third header's checksum
    path.write_bytes(data)
    found = read(path)
    assert found.damage == "the header at byte 2048 is damaged"
    assert [sample.key for sample in found.samples] == [b"0", b"1"]


@pytest.mark.parametrize("kind", ["nothing", "text", "gzip", "a header of a gigabyte"])
def test_what_is_no_archive_is_damaged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [("0.jpg", b"x")])
    if kind == "a header of a gigabyte":
        huge = tarfile.TarInfo("././@PaxHeader")
        huge.type, huge.size = tarfile.XHDTYPE, 1 << 30
        path.write_bytes(huge.tobuf(tarfile.USTAR_FORMAT))
        os.truncate(path, 1 << 31)  # sparse: it would be read into memory
    else:
        whole = path.read_bytes()
        made = {
            "nothing": b"",
            "text": b"<html>not found</html>" * 99,
            "gzip": gzip.compress(whole),
        }
        path.write_bytes(made[kind])
    found = read(path)
    assert found.samples == ()
    assert found.damage is not None
    assert "it is not a tar archive" in found.damage


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.tar")
    with pytest.raises(FileNotFoundError):
        shards.opened(Span(b"", 0, 10))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".heic"])
def test_a_member_is_decoded_as_the_file_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".heic":
        Image.new("RGB", (48, 40), "teal").save(path, "HEIF")
    elif suffix == ".tif":  # of the codec that asks for a file descriptor
        Image.new("RGB", (48, 40), "teal").save(path, "TIFF", compression="tiff_adobe_deflate")
    else:
        path.write_bytes(picture_bytes(tmp_path, 3, suffix))
    write_tar(tmp_path / "a.tar", [("x.txt", b"1" * 700), (path.name, path.read_bytes())])
    span = read(tmp_path / "a.tar").samples[1].members[suffix[1:]].span
    inside, alone = decode(span, SQUARE), decode(os.fsencode(path), SQUARE)
    np.testing.assert_array_equal(inside.pixels, alone.pixels)
    assert inside.content_hash == alone.content_hash == see(span).content_hash
    assert (inside.width, inside.height) == (48, 40)


def test_a_part_of_a_file_ends_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(struct.pack("20B", *range(20)))
    with shards.opened(Span(os.fsencode(path), 5, 10)) as part:
        assert part.read() == bytes(range(5, 15))
        assert part.seek(-3, os.SEEK_END) == 7
        assert part.read(100) == bytes(range(12, 15))
        assert part.seek(50) == 50
        assert part.read() == b""
        part.seek(2)
        assert (part.read(3), part.tell()) == (bytes(range(7, 10)), 5)
