"""Tar archives for tests, as webdataset has them and as it does not."""

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

from conftest import make_picture


def write_tar(path: Path, members: Iterable[tuple[str | bytes, bytes | None]]) -> None:
    """An archive of these members in this order; one without bytes is a symbolic link."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(os.fsdecode(name))
            member.mtime = 1_700_000_000
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def picture_bytes(folder: Path, seed: int, suffix: str = ".jpg") -> bytes:
    """An image file of random blocks."""
    path = folder / f"made-{seed}{suffix}"
    make_picture(path, seed)
    data = path.read_bytes()
    path.unlink()
    return data


def samples(folder: Path, seeds: Iterable[int]) -> list[tuple[str | bytes, bytes]]:
    """Members of one archive: an image, a caption and metadata for each seed."""
    made: list[tuple[str | bytes, bytes]] = []
    for seed in seeds:
        told = json.dumps({"url": f"https://example.com/{seed}", "caption": "another"})
        made += [
            (f"{seed:09d}.jpg", picture_bytes(folder, seed)),
            (f"{seed:09d}.txt", b"number %d" % seed),
            (f"{seed:09d}.json", told.encode()),
        ]
    return made


def interleaved(members: list[tuple[str | bytes, bytes]]) -> list[tuple[str | bytes, bytes]]:
    """All images first, then all captions backwards, then all metadata."""
    return members[::3] + members[1::3][::-1] + members[2::3]


def write_benchmark(
    folder: Path,
    said: Iterable[tuple[str, bytes]],
    *,
    split: str = "test",
    first: int = 0,
    archives: int = 2,
    **texts: str,
) -> Path:
    """A set in CLIP_benchmark's layout, with an image for each extension and content in ``said``.

    first: the seed of the first image. texts: what the folder's text files say, by their stems.
    """
    (folder / split).mkdir(parents=True, exist_ok=True)
    for stem, text in texts.items():
        (folder / f"{stem}.txt").write_text(text, encoding="utf-8")
    members: list[list[tuple[str | bytes, bytes]]] = [[] for _ in range(archives)]
    said = list(said)
    for n, (extension, content) in enumerate(said):
        into = members[n * archives // len(said)]
        into.append((f"s{n:07d}.webp", picture_bytes(folder, first + n, ".webp")))
        into.append((f"s{n:07d}.{extension}", content))
    for number, inside in enumerate(members):
        write_tar(folder / split / f"{number}.tar", inside)
    (folder / split / "nshards.txt").write_text(f"{archives}\n")
    return folder
