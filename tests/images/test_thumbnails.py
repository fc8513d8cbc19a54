"""Thumbnails one at a time: kept while there is room, and made again for a changed file."""

import io
import os
import threading
from pathlib import Path

import pytest
from conftest import make_picture
from PIL import Image

from clipsearch.images.pool import Decoder
from clipsearch.images.thumbnails import SIZE, Thumbnailer


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The paths that were decoded, in order."""
    paths: list[bytes] = []
    decode = Decoder.decode

    def noted(self: Decoder, path: bytes, timeout: float, stopped: threading.Event) -> object:
        paths.append(path)
        return decode(self, path, timeout, stopped)

    monkeypatch.setattr(Decoder, "decode", noted)
    return paths


def test_what_is_kept_is_not_decoded_again(tmp_path: Path, decoded: list[bytes]) -> None:
    paths = [os.fsencode(tmp_path / f"{n}.png") for n in range(3)]
    for n, path in enumerate(paths):
        make_picture(path, n)
    room = 8000  # for one of them, and not for two
    with Thumbnailer(most_bytes=room) as thumbnailer:
        first = thumbnailer.get(paths[0])
        assert first is not None
        assert room / 2 < len(first) < room
        assert Image.open(io.BytesIO(first)).size == (SIZE, SIZE)
        assert thumbnailer.get(paths[0]) == first
        assert decoded == paths[:1]
        thumbnailer.get(paths[1])
        assert thumbnailer.get(paths[0]) == first  # had to go meanwhile
        assert decoded == [paths[0], paths[1], paths[0]]


def test_a_changed_file_is_decoded_again_and_a_broken_one_once(
    tmp_path: Path, decoded: list[bytes]
) -> None:
    path = os.fsencode(tmp_path / "a.png")
    make_picture(path, 1)
    with Thumbnailer() as thumbnailer:
        before = thumbnailer.get(path)
        make_picture(path, 2, size=(50, 50))
        assert thumbnailer.get(path) not in (before, None)
        Path(os.fsdecode(path)).write_bytes(b"broken")
        assert thumbnailer.get(path) is None
        assert thumbnailer.get(path) is None
        assert len(decoded) == 3
        os.unlink(path)
        with pytest.raises(FileNotFoundError):
            thumbnailer.get(path)


def test_a_decoder_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.fsencode(tmp_path / "a.png")
    make_picture(path, 1)
    monkeypatch.setattr("clipsearch.images.thumbnails._MOST_DECODERS", 1)
    with Thumbnailer() as thumbnailer:
        decoder = thumbnailer._decoders.get()
        decoder._process.kill()
        thumbnailer._decoders.put(decoder)
        with pytest.raises(Exception, match="cannot be started"):
            thumbnailer.get(path)
        assert thumbnailer.get(path) is not None
