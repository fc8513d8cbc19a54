"""Which model the user wants, and where it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from clipsearch.models import registry
from clipsearch.models.load import Encoders, load_encoder, load_text_encoder
from clipsearch.records import ModelFiles

Notify = Callable[[str], None]
"""Called with a message for the user."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The user's settings for the model; None for a setting that was not given."""

    name: str | None = None
    pretrained: str | None = None
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or one of torch's own names."""
    batch_size: int | None = None
    """Images per batch (default: chosen for the device)."""
    offline: bool = False
    """Never use the network."""

    @property
    def is_named(self) -> bool:
        """Whether the user named a model or its weights."""
        return self.name is not None or self.pretrained is not None

    def files(self, notify: Notify) -> ModelFiles:
        """The named model (default: the default model).

        If only weights are named, the default's architecture is used. Raises ModelError.
        """
        if not self.is_named:
            return registry.resolve_default(offline=self.offline, notify=notify)
        name = self.name or registry.DEFAULT_NAME
        return registry.resolve(name, self.pretrained, offline=self.offline, notify=notify)

    def encoders(self, files: ModelFiles) -> Encoders:
        """The encoders of a model, with this device and batch size."""
        load = cache(lambda: load_encoder(files, self.device, self.batch_size))
        return Encoders(lambda: load_text_encoder(files, load), load)
