"""Any sequence of events, and the index is still what a dict would be.

The machine below does to a store whatever a year of use may do to it, in random order. The truth
is a dict of path -> vector; after every step, a search through the writer, through a fresh reader
and on a plain copy gives what numpy finds in that dict. It runs twice: with flat FAISS
files, and with inverted ones, where the exact searches are compared, and every other search has to
keep to what is there.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fakes import assert_exact, fake_spec, half, picture, texts_for, unit, unsynchronised
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clipsearch.records import Filter, ImageFile, Vectors
from clipsearch.storage.catalog import FOLDER, VECTORS, Store
from clipsearch.storage.vectors import nprobe

FOLDERS = (b"", b"a/", b"a/b/", b"ab/", b"a0/")
PATHS = [folder + b"%d.png" % n for folder in FOLDERS for n in range(6)] + [b"\xff\xfe.png"]
SEEDS = st.integers(0, 10**6)


class StoreMachine(RuleBasedStateMachine):
    """A store, beside the truth about it."""

    cluster_from: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="clipsearch-states-"))
        self.root = self.folder / "photos"
        self.root.mkdir()
        self.store = unsynchronised(Store.create(self.root / FOLDER, self.root, fake_spec()))
        self.reader = Store.open(self.root / FOLDER)
        self.truth: dict[bytes, Vectors] = {}
        self.failed: set[bytes] = set()
        self.ids_used: set[int] = set()
        self.clock = 0
        self.moves = 0

    def teardown(self) -> None:
        self.store.close()
        self.reader.close()
        shutil.rmtree(self.folder)

    def file(self, path: bytes) -> ImageFile:
        self.clock += 1
        return ImageFile(path, self.clock % 7, self.clock)

    @initialize(count=st.integers(0, 25))
    def begin(self, count: int) -> None:
        self.add(PATHS[:count], seed=0)

    @rule(paths=st.lists(st.sampled_from(PATHS), max_size=8), seed=SEEDS)
    def add(self, paths: list[bytes], seed: int) -> None:
        """Add and replace, under ids that were never used before."""
        before = {entry.id for entry in self.store.known().values()}
        with self.store.batch():
            self.store.add(picture(path, seed + n) for n, path in enumerate(paths))
        self.truth |= {path: unit(seed + n) for n, path in enumerate(paths)}
        self.failed -= set(paths)
        fresh = {entry.id for entry in self.store.known().values()} - before
        assert not fresh & self.ids_used
        self.ids_used |= fresh

    @rule(seed=SEEDS)
    def add_many(self, seed: int) -> None:
        """More than FAISS is asked for at first."""
        paths = [b"many/%d" % n for n in range(60)]
        self.add(paths, seed)

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), path=st.sampled_from(PATHS))
    def copy(self, data: st.DataObject, path: bytes) -> None:
        source = data.draw(st.sampled_from(sorted(self.truth)))
        if source == path:
            return
        with self.store.batch():
            self.store.add_copy(self.file(path), self.store.known()[source].id)
        self.truth[path] = self.truth[source]
        self.failed.discard(path)

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), path=st.sampled_from(PATHS))
    def move(self, data: st.DataObject, path: bytes) -> None:
        """To a free place, onto another image, or onto itself."""
        source = data.draw(st.sampled_from(sorted(self.truth)))
        id = self.store.known()[source].id
        with self.store.batch():
            self.store.move(id, self.file(path))
        self.truth[path] = self.truth.pop(source)
        self.failed.discard(path)
        assert self.store.known()[path].id == id

    @precondition(lambda self: self.truth or self.failed)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        known = sorted({*self.truth, *self.failed})
        paths = data.draw(st.lists(st.sampled_from(known), max_size=len(known)))
        with self.store.batch():
            self.store.remove(paths)
        for path in paths:
            self.truth.pop(path, None)
            self.failed.discard(path)

    @precondition(lambda self: self.truth)
    @rule(query=SEEDS, count=st.integers(1, 40))
    def remove_the_best(self, query: int, count: int) -> None:
        """What a search would find first is gone, but still in the FAISS file."""
        paths = [hit.path for hit in self.store.search(unit(query), count, exact=True)]
        with self.store.batch():
            self.store.remove(paths)
        for path in paths:
            del self.truth[path]
        self.check(self.store, query, k=5)

    @rule(path=st.sampled_from(PATHS))
    def fail(self, path: bytes) -> None:
        with self.store.batch():
            self.store.add_failed(self.file(path), "damaged")
        self.truth.pop(path, None)
        self.failed.add(path)

    @rule(path=st.sampled_from(PATHS), seed=SEEDS)
    def begin_and_give_up(self, path: bytes, seed: int) -> None:
        try:
            with self.store.batch():
                self.store.add([picture(path, seed)])
                self.store.remove(list(self.truth))
                raise InterruptedError
        except InterruptedError:
            pass

    @rule()
    def update_vector_index(self) -> None:
        if self.cluster_from is None:
            self.store.update_vector_index()
        else:
            self.store.update_vector_index(lambda: texts_for(20), cluster_from=self.cluster_from)
        assert self.store.damage == ""

    @rule(how=st.sampled_from(["delete", "cut", "garbage"]), share=st.floats(0, 1))
    def damage_the_faiss_file(self, how: str, share: float) -> None:
        file = self.root / FOLDER / VECTORS
        if not file.exists():
            return
        content = file.read_bytes()
        # A new file in its place: what a process has mapped must not change under its feet.
        file.unlink()
        if how == "cut":
            file.write_bytes(content[: int(share * len(content))])
        elif how == "garbage":
            file.write_bytes(np.random.default_rng(int(share * 99)).bytes(len(content)))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = unsynchronised(Store.open_for_writing(self.root / FOLDER))

    @rule(path=st.sampled_from(PATHS), seed=SEEDS, removed=st.booleans())
    def die_in_a_batch(self, path: bytes, seed: int, removed: bool) -> None:
        """What lies on the disk in the middle of a batch is all that is left."""
        left = self.folder / "left"
        try:
            with self.store.batch():
                self.store.add([picture(path, seed)])
                if removed:
                    self.store.remove(list(self.truth))
                shutil.copytree(self.root / FOLDER, left)
                raise InterruptedError
        except InterruptedError:
            self.store.close()
            self.reader.close()
        shutil.rmtree(self.root / FOLDER)
        left.rename(self.root / FOLDER)
        self.reader = Store.open(self.root / FOLDER)
        self.store = unsynchronised(Store.open_for_writing(self.root / FOLDER))

    @rule()
    def a_new_reader(self) -> None:
        self.reader.close()
        self.reader = Store.open(self.root / FOLDER)

    @rule()
    def move_the_whole_folder(self) -> None:
        self.store.close()
        self.reader.close()
        self.moves += 1
        moved = self.folder / f"moved {self.moves}"
        self.root.rename(moved)
        self.root = moved
        self.store = unsynchronised(Store.open_for_writing(self.root / FOLDER))
        self.reader = Store.open(self.root / FOLDER)
        assert self.store.root == moved

    @rule(query=SEEDS)
    def search_a_copy(self, query: int) -> None:
        copy = self.folder / "copy"
        shutil.copytree(self.root / FOLDER, copy / FOLDER)
        with Store.open(copy / FOLDER) as store:
            assert store.root == copy
            self.check(store, query, k=7)
        shutil.rmtree(copy)

    @rule(query=SEEDS, k=st.sampled_from([1, 3, 10, 200]), folder=st.sampled_from(FOLDERS))
    def search(self, query: int, k: int, folder: bytes) -> None:
        for store in (self.store, self.reader):
            self.check(store, query, k, folder.rstrip(b"/"))

    def check(self, store: Store, query: int, k: int, under: bytes = b"") -> None:
        hits = store.search(unit(query), k, Filter(under), exact=self.cluster_from is not None)
        assert_exact(hits, self.truth, unit(query), k, under)
        if self.cluster_from is not None:
            self.check_clusters(store, query, k)

    def check_clusters(self, store: Store, query: int, k: int) -> None:
        """As many hits as there should be, each of them with the score of its own image."""
        hits = store.search(unit(query), k)
        assert len({hit.path for hit in hits}) == len(hits) == min(k, len(self.truth))
        scores = [half(self.truth[hit.path]).astype(np.float32) @ unit(query) for hit in hits]
        np.testing.assert_allclose([hit.score for hit in hits], scores, rtol=0, atol=2e-6)
        assert scores == sorted(scores, reverse=True)

    @invariant()
    def every_search_is_exact(self) -> None:
        for store in (self.store, self.reader):
            self.check(store, self.clock, k=4)

    @invariant()
    def every_path_has_its_own_vector(self) -> None:
        known = self.reader.known()
        assert {path for path, entry in known.items() if entry.failed} == self.failed
        assert {path for path, entry in known.items() if not entry.failed} == set(self.truth)
        for path, vector in self.truth.items():
            np.testing.assert_array_equal(self.reader.vector(known[path].id), half(vector))


class ClusteredStoreMachine(StoreMachine):
    """The same with clusters, which are used however many vectors they make a search read."""

    cluster_from = 20

    def __init__(self) -> None:
        super().__init__()
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(nprobe, "is_worth_it", lambda measured: True)

    def teardown(self) -> None:
        self.patched.undo()
        super().teardown()


TestStoreStates = StoreMachine.TestCase
TestStoreStates.settings = settings(deadline=None, max_examples=20, stateful_step_count=25)

TestClusteredStoreStates = pytest.mark.process(ClusteredStoreMachine.TestCase)
TestClusteredStoreStates.settings = settings(deadline=None, max_examples=20, stateful_step_count=25)
