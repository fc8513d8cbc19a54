"""Which model and which encoder a command uses, without loading torch where that can be done."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from clipsearch.cli.app import say
from clipsearch.models.choice import ModelChoice

if TYPE_CHECKING:
    from clipsearch.records import Encoder, ModelFiles, TextEncoder


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
