"""Encoders, loaded when they are first needed, and without torch if possible."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from clipsearch.models import registry, weights
from clipsearch.models.text_encoder import TextEncoder as NumpyTextEncoder
from clipsearch.models.text_encoder import supports
from clipsearch.records import Encoder, ModelFiles, ModelSpec, TextEncoder


class Encoders:
    """The two encoders of one model, each loaded on first use and then kept."""

    def __init__(self, load_text: Callable[[], TextEncoder], load: Callable[[], Encoder]) -> None:
        """load_text: loads the text tower. load: loads both towers. Each is called at most once."""
        self._load_text = cache(load_text)
        self._load = cache(load)

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        device: str = "auto",
    ) -> "Encoders":
        """The encoders of an index's own model, which is located when one is first needed."""
        load = cache(lambda: load_encoder(registry.locate(spec), device))
        return cls(lambda: load_text_encoder(registry.locate(spec), load), load)

    @property
    def text(self) -> TextEncoder:
        """For texts alone. Raises ModelError."""
        return self._load_text()

    @property
    def many_texts(self) -> TextEncoder:
        """For many texts at once: in fast arithmetic, if both towers are already loaded for images.

        Cosine to ``text``: at least 0.9999 on a sample. Raises ModelError.
        """
        loaded = self._load.cache_info().currsize > 0
        return (self._load().for_many_texts() if loaded else None) or self.text

    @property
    def both(self) -> Encoder:
        """For images and texts. Raises ModelError."""
        return self._load()


def load_encoder(
    files: ModelFiles,
    device: str = "auto",
    batch_size: int | None = None,
) -> Encoder:
    """Both towers, with torch.

    device: "auto", "cpu", "cuda" or one of torch's own names. batch_size: images per batch
    (default: chosen for the device). Raises DeviceError, BadCheckpoint.
    """
    with _uninterrupted():
        from clipsearch.models.open_clip import OpenClipEncoder  # takes seconds
    return OpenClipEncoder(files, device, batch_size)


def load_text_encoder(files: ModelFiles, load: Callable[[], Encoder]) -> TextEncoder:
    """The text tower in numpy if it supports the model; else the result of ``load``.

    Raises what ``load`` raises, and BadCheckpoint.
    """
    path = weights.mappable(files.weights)
    if path is not None and supports(files.spec):
        return NumpyTextEncoder(ModelFiles(files.spec, path))
    return load()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C: torch aborts the whole process if its import is interrupted."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
