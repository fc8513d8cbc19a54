"""Which model and which encoder a command uses, without loading torch where that can be done."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clipsearch.cli.app import say
from clipsearch.errors import UsageError
from clipsearch.models.choice import ModelChoice

if TYPE_CHECKING:
    from clipsearch.records import Encoder, ModelFiles, ModelSpec, TextEncoder
    from clipsearch.storage.catalog import Store


def shared_model(stores: "Sequence[Store]") -> "ModelSpec":
    """The one model of all these indexes: scores of different models cannot be compared."""
    specs = {store.spec.fingerprint: store.spec for store in stores}
    if len(specs) > 1:
        made = "; ".join(f"{store.root} ({store.spec.label})" for store in stores)
        raise UsageError(
            f"several folders here are indexed with different models: {made}",
            hint="Say which one you mean with --under FOLDER.",
        )
    return stores[0].spec


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
