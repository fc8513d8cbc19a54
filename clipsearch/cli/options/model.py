"""Which model and which encoder a command uses, without loading torch where that can be done."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipsearch.cli.app import say
from clipsearch.errors import ModelMismatch

if TYPE_CHECKING:
    from clipsearch.records import Encoder, ModelFiles, TextEncoder
    from clipsearch.storage.catalog import Store


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What the user said about the model; None where they said nothing."""

    name: str | None = None
    pretrained: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    offline: bool = False


def model_for(store: "Store", choice: ModelChoice, *, may_change: bool) -> "ModelFiles":
    """The model for an existing index: its own, unless the user names it or may change it."""
    from clipsearch.models import registry

    if choice.name is None and choice.pretrained is None:
        try:
            return registry.locate(store.spec)
        except ModelMismatch:  # other weights under the same name
            if not may_change:
                raise
        spec = store.spec
        return registry.resolve(spec.name, spec.pretrained, offline=choice.offline, notify=say)
    files = named_model(choice)
    same = files.spec.fingerprint == store.spec.fingerprint
    if files.spec != store.spec and (same or not may_change):
        with store.batch():
            store.set_spec(files.spec)
    return files


def new_model(choice: ModelChoice) -> "ModelFiles":
    """The model for a new index: the one that was named, or the default."""
    from clipsearch.models import registry

    if choice.name is None and choice.pretrained is None:
        return registry.resolve_default(offline=choice.offline, notify=say)
    return named_model(choice)


def named_model(choice: ModelChoice) -> "ModelFiles":
    """The model that the user named, with the default's architecture if they named none."""
    from clipsearch.models import registry

    name = choice.name or registry.DEFAULT_NAME
    return registry.resolve(name, choice.pretrained, offline=choice.offline, notify=say)


def load_encoder(files: "ModelFiles", choice: ModelChoice) -> "Encoder":
    """Both towers, with torch."""
    from clipsearch.models import load

    return load.load_encoder(files, choice.device, choice.batch_size, say)


def load_text_encoder(
    files: "ModelFiles",
    choice: ModelChoice,
    load: "Callable[[ModelFiles, ModelChoice], Encoder]" = load_encoder,
) -> "TextEncoder":
    """The text tower, without torch wherever that can be done; else what ``load`` gives."""
    from clipsearch.models.load import load_text_encoder as text_encoder

    return text_encoder(files, lambda: load(files, choice))
