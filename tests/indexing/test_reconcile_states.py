"""Folders that are the same are passed over, and the index is what comparing every file gives.

The machine below does to a folder what people do, and to its index what other commands do. Two
indexes follow it: one passes over what is the same, the other forgets that before each run. After
every run their summaries and their rows agree, those of failed images and the ids included.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fakes import fake_spec, unit, unsynchronised
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from clipsearch.errors import CollectionGone, ImageError
from clipsearch.images import scan
from clipsearch.images.limits import Limits
from clipsearch.indexing.embed import Outcome
from clipsearch.indexing.reconcile import reconcile
from clipsearch.records import EmbeddedImage, Encoder, ImageFile, Scope
from clipsearch.storage.catalog import Store

FOLDERS = ("", "a", "a/b", "a0", "d")
NAMES = [os.path.join(folder, name) for folder in FOLDERS for name in ("x.jpg", "y.jpg")]
CONTENTS = st.sampled_from([b"one", b"two", b"three", b"four", b"bad", b"too large"])
EXCLUDE = st.sampled_from([(), ("a0",), ("y.*",), ("a/b",)])


class Interruption(Exception):
    pass


class FolderMachine(RuleBasedStateMachine):
    """A folder, and two indexes of it that are to be alike."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="clipsearch-folders-"))
        self.root = self.place / "photos"
        self.root.mkdir()
        self.stores = [
            unsynchronised(Store.create(self.place / name, self.root, fake_spec()))
            for name in ("listed", "compared")
        ]
        self.clock = 0

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.place)

    @initialize(names=st.lists(st.sampled_from(NAMES), min_size=6))
    def begin(self, names: list[str]) -> None:
        for n, name in enumerate(names):
            self.write(name, b"%d" % n)
        self.index("", prune=True, interrupted=False)

    # -- what people do in the folder ------------------------------------------------------

    def there(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    @rule(name=st.sampled_from(NAMES), content=CONTENTS)
    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.touch(path)

    def touch(self, path: Path) -> None:
        self.clock += 1
        os.utime(path, ns=(0, self.clock))

    @precondition(lambda self: self.there())
    @rule(data=st.data(), to=st.sampled_from(NAMES), how=st.sampled_from(["move", "copy"]))
    def move_or_copy(self, data: st.DataObject, to: str, how: str) -> None:
        path, target = data.draw(st.sampled_from(self.there())), self.root / to
        if path != target:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target) if how == "move" else shutil.copy2(path, target)

    @precondition(lambda self: self.there())
    @rule(data=st.data(), how=st.sampled_from(["touch", "delete", "same size and time"]))
    def change(self, data: st.DataObject, how: str) -> None:
        path = data.draw(st.sampled_from(self.there()))
        if how == "touch":
            self.touch(path)
        elif how == "delete":
            path.unlink()
        else:  # which no comparison notices
            times = path.stat().st_mtime_ns
            path.write_bytes(path.read_bytes()[::-1])
            os.utime(path, ns=(times, times))

    @rule(folder=st.sampled_from(FOLDERS[1:]), to=st.sampled_from([None, *FOLDERS[1:], "new"]))
    def move_or_delete_a_folder(self, folder: str, to: str | None) -> None:
        path = self.root / folder
        if not path.is_dir():
            return
        if to is None:
            shutil.rmtree(path)
        elif not (self.root / to).exists() and not (self.root / to).is_relative_to(path):
            (self.root / to).parent.mkdir(parents=True, exist_ok=True)
            path.rename(self.root / to)

    # -- what other commands do to the index ------------------------------------------------

    @rule(data=st.data(), how=st.sampled_from(["forget", "remove", "fail", "replace", "move"]))
    def change_rows(self, data: st.DataObject, how: str) -> None:
        """As verify --repair, import and another run would, between two runs."""
        self.index("", prune=True, interrupted=False)
        path = os.fsencode(data.draw(st.sampled_from(NAMES)))
        for store in self.stores:
            known = store.known()
            with store.batch():
                if how == "forget":
                    store.forget([known[path].id] if path in known else [])
                elif how == "remove":
                    store.remove([path])
                elif how == "fail":
                    store.add_failed(ImageFile(path, 3, 1), "damaged")
                elif how == "replace":
                    store.add([embedded(ImageFile(path, 3, 1), b"other")])
                elif path in known:
                    store.move(known[path].id, ImageFile(b"d/moved.jpg", 3, 1))
        self.index("", prune=True, interrupted=False)

    @rule(exclude=EXCLUDE)
    def exclude(self, exclude: tuple[str, ...]) -> None:
        for store in self.stores:
            with store.batch():
                store.set_scope(Scope(exclude))

    # -- runs ----------------------------------------------------------------------------------

    @rule(
        under=st.sampled_from(["", "", "", "a", "a/b"]),
        prune=st.sampled_from([True, True, False]),
        interrupted=st.sampled_from([False, False, True]),
    )
    def index(self, under: str, prune: bool, interrupted: bool) -> None:
        if not (self.root / under).is_dir():
            return
        listed, compared = (
            self.run(store, os.fsencode(under), prune, interrupted) for store in self.stores
        )
        assert listed == compared
        assert self.rows(self.stores[0]) == self.rows(self.stores[1])

    def run(self, store: Store, under: bytes, prune: bool, interrupted: bool) -> object:
        if store is self.stores[1]:
            with store.batch():
                store._db.execute("DELETE FROM folders")
        found = scan.find(
            os.fsencode(self.root),
            exclude=store.scope.exclude,
            under=under,
            listed=store.listings(under),
        )
        assert store is self.stores[0] or not found.same

        def embed(root: bytes, files: Sequence[ImageFile], *_: object, **__: object) -> Any:
            return self.embed(root, files, interrupted)

        try:
            summary = reconcile(store, found, no_encoder, under=under, prune=prune, embed=embed)
        except (CollectionGone, Interruption) as error:
            return str(error)
        summary.seconds = 0
        return summary

    def embed(
        self, root: bytes, files: Sequence[ImageFile], interrupted: bool
    ) -> Iterator[list[tuple[ImageFile, Outcome]]]:
        for n, file in enumerate(files):
            if interrupted and n == 1:
                raise Interruption
            content = Path(os.fsdecode(os.path.join(root, file.path))).read_bytes()
            if content == b"bad":
                yield [(file, ImageError("damaged"))]
            elif content == b"too large":
                too_many = Limits.here(None).max_pixels + 1
                yield [(file, ImageError("too large", kind="pixels", pixels=too_many))]
            else:
                yield [(file, embedded(file, content))]

    def rows(self, store: Store) -> list[tuple[object, ...]]:
        return list(store._db.rows("SELECT * FROM images ORDER BY id"))


def embedded(file: ImageFile, content: bytes) -> EmbeddedImage:
    with tempfile.TemporaryFile() as opened:
        opened.write(content)
        digest = scan.content_hash(opened)  # type: ignore[arg-type]
    return EmbeddedImage(file, digest, 1, 1, None, unit(content))


def no_encoder() -> Encoder:
    raise AssertionError("there is nothing to embed")


TestFolders = FolderMachine.TestCase
TestFolders.settings = settings(deadline=None, max_examples=30, stateful_step_count=20)
