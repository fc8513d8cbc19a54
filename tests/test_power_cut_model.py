"""The model of a disk that loses its power, on records of a few operations."""

import os
import random
import struct
from pathlib import Path

import power_cut
import pytest
from power_cut import (
    Create,
    Disk,
    MakeFolder,
    Mark,
    NotModelled,
    Operation,
    Remove,
    Rename,
    SyncFile,
    SyncFolder,
    Truncate,
    Write,
)

Reachable = dict[str, bytes | None]

REPLACED: list[Operation] = [Create("new", 1), Write(1, 0, b"new"), Rename("new", "a", 1)]
"""How a file is not to be replaced: the name may reach the disk before the data."""


def before() -> Disk:
    return Disk({0: bytearray(b"old")}, {"a": 0})


def left(operations: list[Operation], most: int = 10_000) -> list[Reachable]:
    """All that a cut after the last of these may leave."""
    settled = power_cut.settled_at(operations)
    found = power_cut.states(before(), operations, settled, len(operations), random.Random(0), most)
    return [before().apply(state.changes).reachable() for state in found]


def test_the_first_state_has_lost_nothing() -> None:
    first, *others = left(REPLACED)
    assert first == {"a": b"new"}
    assert {"a": b"old"} in others


def test_a_name_may_reach_the_disk_before_its_data() -> None:
    there = left(REPLACED)
    assert {"a": b""} in there
    assert {"a": b"\0\0\0"} in there
    assert {"a": b"old", "new": b"new"} in there


def test_data_that_was_synced_is_never_lost_and_names_may_be() -> None:
    create, write, rename = REPLACED
    there = left([create, write, SyncFile(1), rename])
    assert {state["a"] for state in there if "a" in state} == {b"old", b"new"}


def test_what_was_synced_with_its_folder_can_only_be_there() -> None:
    create, write, rename = REPLACED
    assert left([create, write, SyncFile(1), rename, SyncFolder("")]) == [{"a": b"new"}]


def test_to_sync_a_file_keeps_no_name() -> None:
    there = left([MakeFolder("f"), Create("f/b", 1), Write(1, 0, b"x"), SyncFile(1)])
    assert {"a": b"old"} in there
    there = left(
        [MakeFolder("f"), Create("f/b", 1), Write(1, 0, b"x"), SyncFile(1), SyncFolder("f")]
    )
    assert {"a": b"old"} in there  # the folder itself may be lost
    assert {"a": b"old", "f": None} not in there


def test_a_removal_may_be_lost() -> None:
    assert {"a": b"old"} in left([Remove("a")])
    assert left([Remove("a"), SyncFolder("")]) == [{}]


def test_a_write_is_torn_at_sectors_and_keeps_the_old_data_elsewhere() -> None:
    old, new = b"o" * 1100, b"n" * 1100
    there = left([Write(0, 0, old), SyncFile(0), Write(0, 100, new)])
    contents = {state["a"] for state in there}
    assert (old[:100] + new)[:512] + old[512:] in contents
    for content in contents:
        assert content is not None
        for start in range(0, len(content), 512):
            sector = content[start : start + 512].removeprefix(b"o" * 100)
            assert len(set(sector)) <= 1 or start + 512 > 1100


def test_garbage_appears_only_beyond_what_the_file_is_sure_to_hold() -> None:
    inside = {state["a"] for state in left([Write(0, 0, b"new")])}
    assert inside == {b"old", b"new"}
    beyond = {state["a"] for state in left([Write(0, 3, b"more")])}
    assert b"old\0\0\0\0" in beyond
    assert any(content not in (b"old", b"oldmore", b"old\0\0\0\0") for content in beyond)


def test_writes_are_reordered_among_files_and_within_one() -> None:
    there = left([Create("b", 1), SyncFolder(""), Write(0, 0, b"1"), Write(1, 0, b"2")])
    assert {"a": b"old", "b": b"2"} in there
    assert {"a": b"1ld", "b": b""} in there
    assert {"a": b"ol2"} in left([Write(0, 0, b"1"), Write(0, 2, b"2")])


def test_a_truncation_may_be_lost_and_lengthens_with_zeros() -> None:
    assert {state["a"] for state in left([Truncate(0, 0)])} == {b"", b"old"}
    assert left([Truncate(0, 5), SyncFile(0)]) == [{"a": b"old\0\0"}]


def test_so_many_are_chosen_and_the_same_ones_each_time() -> None:
    assert len(left(REPLACED, most=3)) == 4
    assert left(REPLACED, most=3) == left(REPLACED, most=3)


def test_a_disk_is_written_and_what_is_the_same_is_left_alone(tmp_path: Path) -> None:
    disk = Disk({0: bytearray(b"x"), 1: bytearray(b"y")}, {"f/a": 0, "b": 1}, {"f"})
    disk.write_to(tmp_path)
    os.utime(tmp_path / "b", ns=(1, 1))
    other = disk.copy().apply([Write(0, 1, b"z"), Create("c", 2)])
    (tmp_path / "of another state").write_bytes(b"")
    other.write_to(tmp_path)
    assert Disk.of(tmp_path)[0].reachable() == other.reachable()
    assert (tmp_path / "b").stat().st_mtime_ns == 1
    assert power_cut.digest(disk) != power_cut.digest(other)


def record_of(path: Path, *records: tuple[str, int, int, str, str, bytes]) -> Path:
    with path.open("wb") as file:
        for kind, inode, at, first, second, data in records:
            sizes = (len(first), len(second), len(data))
            file.write(struct.pack("=6q", ord(kind), inode, at, *sizes))
            file.write(first.encode() + second.encode() + data)
    return path


def test_a_record_is_read(tmp_path: Path) -> None:
    log = record_of(
        tmp_path / "log",
        ("D", 0, 0, "/d/f", "", b""),
        ("F", 50, 0, "/d", "", b""),
        ("C", 71, 0, "/d/f/n", "", b""),
        ("W", 71, 4, "/d/f/n", "", b"data"),
        ("T", 71, 2, "/d/f/n", "", b""),
        ("F", 71, 0, "/d/f/n", "", b""),
        ("R", 0, 0, "/d/f/n", "/d/a", b""),
        ("F", 51, 0, "/d/f", "", b""),
        ("C", 71, 0, "/d/f/n", "", b""),  # the inode is used again
        ("U", 0, 0, "/d/f/n", "", b""),
    )
    power_cut.append_mark(log, "commit")
    assert power_cut.read(log, Path("/d"), before(), {70: 0}) == [
        MakeFolder("f"),
        SyncFolder(""),
        Create("f/n", 1),
        Write(1, 4, b"data"),
        Truncate(1, 2),
        SyncFile(1),
        Rename("f/n", "a", 1),
        SyncFolder("f"),
        Create("f/n", 2),
        Remove("f/n"),
        Mark("commit"),
    ]


@pytest.mark.parametrize(
    "unknown", [("?", 70, 0, "/d/a", "", b""), ("R", 0, 0, "/elsewhere", "/d/a", b"")]
)
def test_what_cannot_be_replayed_is_refused(
    tmp_path: Path, unknown: tuple[str, int, int, str, str, bytes]
) -> None:
    with pytest.raises((NotModelled, ValueError)):
        power_cut.read(record_of(tmp_path / "log", unknown), Path("/d"), before(), {70: 0})
