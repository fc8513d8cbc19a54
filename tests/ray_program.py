"""clipsearch, whole, with every embedded image noted: what a killed node or run costs is counted.

Each worker appends a line per image to the file NOTES, a hash of its pixels, before it embeds the
batch, and then takes SLOWNESS seconds an image.
"""

import hashlib
import os
import sys
import time
from functools import partial
from pathlib import Path

from clipsearch import cli
from clipsearch.indexing import on_ray
from clipsearch.models.load import load_encoder
from clipsearch.records import Encoder, ModelFiles, Pixels, Vectors


class NotedEncoder:
    """An encoder that tells what it embeds."""

    def __init__(self, encoder: Encoder, notes: str, slowness: float) -> None:
        self._encoder, self._notes, self._slowness = encoder, notes, slowness
        self.batch_size = encoder.batch_size

    def encode_images(self, pixels: Pixels) -> Vectors:
        lines = [hashlib.blake2b(one.tobytes(), digest_size=8).hexdigest() for one in pixels]
        with open(self._notes, "a", encoding="ascii") as file:
            file.write("".join(f"{line}\n" for line in lines))
        time.sleep(self._slowness * len(pixels))
        return self._encoder.encode_images(pixels)


def load(
    files: ModelFiles, device: str, batch_size: int | None, *, notes: str, slowness: float
) -> NotedEncoder:
    return NotedEncoder(load_encoder(files, device, batch_size), notes, slowness)


if __name__ == "__main__":
    notes, slowness = os.environ["NOTES"], float(os.environ["SLOWNESS"])
    Path(notes).touch()
    on_ray.connected = partial(on_ray.connected, load=partial(load, notes=notes, slowness=slowness))
    sys.exit(cli.run(sys.argv[1:]))
