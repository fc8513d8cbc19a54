"""clipsearch, whole but for its model: embeddings are hashes, so a run takes half a second.

Each embedded batch is noted in the file ``EMBEDDED`` before its vectors are given back.
"""

import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType

from fakes import FakeEncoder

from clipsearch import cli
from clipsearch.models import text_encoder
from clipsearch.records import Pixels, Vectors

DIM = 32


class NotedEncoder(FakeEncoder):
    """Batches of four, each noted, so that a test knows what was embedded when it was killed."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__(DIM, batch_size=4)

    def encode_images(self, pixels: Pixels) -> Vectors:
        with open(os.environ["EMBEDDED"], "a", encoding="ascii") as file:
            file.write(f"{len(pixels)}\n")
        time.sleep(0.01)
        return super().encode_images(pixels)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return super().encode_texts(texts)


if __name__ == "__main__":
    # In the place of the whole room, whoever imports it: torch is not even loaded.
    room = ModuleType("clipsearch.models.open_clip")
    room.OpenClipEncoder = NotedEncoder  # type: ignore[attr-defined]
    sys.modules["clipsearch.models.open_clip"] = room
    text_encoder.supports = lambda _: False  # so that texts, too, are embedded there
    sys.exit(cli.run(sys.argv[1:]))
