"""Mutated images of every format, through the whole program: none ends it, none is mixed up.

The corpus is made from the sample images, small, in every format that is read: cut short, with
bits flipped, with lengths and sizes overwritten by extremes, with parts left out, repeated or
taken from another file. The seed is fixed, so that a failure can be looked into.
"""

import io
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SAMPLES, wait_and_watch
from PIL import Image

from clipsearch.errors import ImageError
from clipsearch.images.decode import FORMATS, decode
from clipsearch.records import ModelFiles

PICTURES = sorted(SAMPLES.rglob("*.*g"))
SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tiff",
    "BMP": ".bmp",
    "DIB": ".bmp",
    "HEIF": ".heic",
    "AVIF": ".avif",
}
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MEMORY = 2 * 2**30
"""More than the model and two decoders take, and less than one image that lies about its size."""


def seeds(count: int) -> list[tuple[str, bytes]]:
    """Suffix and content of whole images, small enough that a mutation hits something."""
    made = []
    for n, path in enumerate(PICTURES[:count]):
        with Image.open(path) as opened:
            small = opened.convert("RGB").resize((64 + n, 48))
        for kind in FORMATS:
            file = io.BytesIO()
            options = {"JPEG": {"exif": small.getexif(), "progressive": bool(n % 2)}}
            options |= {"TIFF": {"compression": ("raw", "tiff_lzw", "tiff_deflate")[n % 3]}}
            small.save(file, kind, **options.get(kind, {}))
            made.append((SUFFIXES[kind], file.getvalue()))
    return made


def mutated(random: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four things are wrong with it."""
    damaged = bytearray(data)
    for _ in range(random.randint(1, 4)):
        # What a file says of itself is at its beginning: half of the damage is done there.
        end = len(damaged) if random.random() < 0.5 else min(len(damaged), 200)
        at = random.randrange(max(1, end))
        match random.randrange(6):
            case 0:
                del damaged[at:]
            case 1 if damaged:
                damaged[min(at, len(damaged) - 1)] ^= 1 << random.randrange(8)
            case 2:
                size = random.choice((1, 2, 4))
                value = random.choice(EXTREMES) & (2 ** (8 * size) - 1)
                damaged[at : at + size] = value.to_bytes(size, random.choice(("big", "little")))
            case 3:
                del damaged[at : at + random.randint(1, 64)]
            case 4:
                part = damaged[at : at + random.randint(1, 64)]
                damaged[at:at] = part * random.choice((1, 2, 50))
            case _:
                start = random.randrange(len(other))
                damaged[at : at + 64] = other[start : start + random.randint(1, 256)]
    return bytes(damaged)


def corpus(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    chance = random.Random(seed)
    whole = seeds(12)
    for n in range(count):
        suffix, data = whole[n % len(whole)]
        yield suffix, mutated(chance, data, chance.choice(whole)[1])


@pytest.mark.process
@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
@pytest.mark.skipif(os.name == "nt", reason="counts memory as POSIX does")
def test_mutated_pictures_end_no_run_and_take_no_other_pictures_vector(
    tmp_path: Path,
    tiny_model: Path,
    tiny_files: ModelFiles,
    count: int,
    tally: "Counter[str]",
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for n, (suffix, data) in enumerate(corpus(count, seed=count)):
        folder = root / f"{n // 500}"
        folder.mkdir(exist_ok=True)
        (folder / f"{n}{suffix}").write_bytes(data)
    command = [sys.executable, "-m", "clipsearch", "index", root, "--model", tiny_model]
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        peak = wait_and_watch(process)
    said = (tmp_path / "err").read_text()
    assert (process.returncode, (tmp_path / "out").read_bytes()) == (0, b"")
    assert peak < MEMORY
    assert "Traceback" not in said
    with sqlite3.connect(root / ".clipsearch" / "catalog.sqlite3") as catalog:
        rows = catalog.execute(
            "SELECT path, error, vector FROM images LEFT JOIN vectors USING (id)"
        ).fetchall()
    assert len(rows) == count
    failed = {path: error for path, error, vector in rows if vector is None}
    assert 0.2 * count < len(failed) < 0.9 * count
    for path, error in failed.items():
        assert f"skipping {path.decode()}: {error}" in said
        assert len(error) < 300
    tally["mutated images tried"] += count
    tally["of them still images"] += count - len(failed)
    # Damage that only shows in the pixels leaves an image, and it has its own vector.
    from clipsearch.models.open_clip import OpenClipEncoder

    encoder = OpenClipEncoder(tiny_files, "cpu", 32)
    good = [(path, vector) for path, _, vector in rows if vector is not None]
    for path, vector in good[:: max(1, len(good) // 100)]:
        pixels = decode(os.fsencode(root) + b"/" + path, tiny_files.spec.preprocessing).pixels
        expected = encoder.encode_images(pixels[np.newaxis])[0]
        assert np.frombuffer(vector, "<f2").astype(np.float32) @ expected > 0.999


def test_the_corpus_has_both_kinds_of_every_format(tiny_files: ModelFiles, tmp_path: Path) -> None:
    """A fuzz test whose every file fails at its first byte, or never, tests nothing."""
    outcomes: dict[str, set[str]] = {}
    for n, (suffix, data) in enumerate(corpus(400, seed=300)):
        path = tmp_path / f"{n}{suffix}"
        path.write_bytes(data)
        try:
            decode(os.fsencode(path), tiny_files.spec.preprocessing)
            outcome = "decoded"
        except ImageError as error:
            early = "in any format" in str(error)
            outcome = "not recognised" if early else "damaged"
        outcomes.setdefault(suffix, set()).add(outcome)
    assert set(outcomes) == {SUFFIXES[kind] for kind in FORMATS}
    for suffix, kinds in outcomes.items():
        assert {"decoded", "damaged"} <= kinds or suffix == ".bmp", (suffix, kinds)
