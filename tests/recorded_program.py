"""clipsearch with a model that is a hash, to be recorded by ``recorder.c``.

``python recorded_program.py ACTION PLACE RECORD`` does it once, and puts a mark into the record
behind each commit. The images lie in ``PLACE/disk/photos``. The functions are also for tests that
go on from what a power cut has left.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import power_cut
from fakes import DecodeHere, FakeEncoder, fake_spec
from small_domain import SMALL

from clipsearch.domain import taxonomy
from clipsearch.indexing import embed
from clipsearch.indexing import update as updating
from clipsearch.indexing.transfer import import_
from clipsearch.indexing.transfer.import_ import ImportOptions, import_embeddings
from clipsearch.indexing.update import UpdateOptions, update
from clipsearch.models import registry
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.records import ModelFiles
from clipsearch.storage import known
from clipsearch.storage.catalog import Store
from clipsearch.storage.sqlite import Database

DIM = 4
"""As ``data/earlier_index`` has it."""


def encoders(*_: object) -> Encoders:
    encoder = FakeEncoder(DIM, batch_size=4)
    return Encoders(lambda: encoder, lambda: encoder)


def model_files(*_: object) -> ModelFiles:
    return ModelFiles(fake_spec(DIM), Path("nowhere"))


@contextmanager
def model_that_is_a_hash() -> Iterator[None]:
    """The model of everything inside, with a small domain; images are decoded in this process."""
    domain = taxonomy.parse(SMALL, "small.toml")
    with ExitStack() as stack:
        for place, name, other in (
            (embed, "DecodePool", DecodeHere),
            (import_, "DecodePool", DecodeHere),
            (ModelChoice, "files", model_files),
            (ModelChoice, "encoders", encoders),
            (registry, "locate", model_files),
            (taxonomy, "load", lambda choice: domain),
        ):
            stack.enter_context(mock.patch.object(place, name, other))
        yield


def index(place: Path) -> None:
    update(place / "disk" / "photos", UpdateOptions())


def rebuild(place: Path) -> None:
    update(place / "disk" / "photos", UpdateOptions(rebuild=True))


def import_export(place: Path) -> None:
    import_embeddings(place / "export", place / "disk" / "photos", ImportOptions())


ACTIONS: dict[str, Callable[[Path], None]] = {
    "index": index,
    "rebuild": rebuild,
    "import": import_export,
}


def _marking(record: Path) -> ExitStack:
    """From now on, whatever says that something is kept leaves a mark."""
    stack = ExitStack()
    transaction = Database.transaction

    @contextmanager
    def marked(self: Database) -> Iterator[None]:
        with transaction(self):
            yield
        power_cut.append_mark(record, "commit")

    def then_mark(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> None:
            function(*arguments)
            power_cut.append_mark(record, function.__name__)

        return called

    stack.enter_context(mock.patch.object(Database, "transaction", marked))
    for place, name in ((Store, "replace_with"), (known, "remember")):
        stack.enter_context(mock.patch.object(place, name, then_mark(getattr(place, name))))
    return stack


if __name__ == "__main__":
    assert updating.known is known
    action, place, record = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with model_that_is_a_hash(), _marking(record):
        ACTIONS[action](place)
