"""Collections that stay open: each question finds them, and their model, as they are then."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import make_picture
from fakes import FakeEncoder, OtherEncoder, fake_spec, picture, rebuild, unit

from clipsearch.errors import UsageError
from clipsearch.records import ModelSpec, TextEncoder
from clipsearch.search.query import Image, Query, SearchOptions, Stored, Text
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.web import session
from clipsearch.web.session import OpenCollections, PictureId

CAT = Query((Text("a cat"),))
OPTIONS = SearchOptions(k=9, all=True, allow_out_of_domain=True, classes=True)


def made(root: Path, spec: ModelSpec, seeds: range = range(5)) -> Path:
    """A calibrated index of images of these seeds, in place of an earlier one."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    with Store.create(root / FOLDER, root, spec) as store:
        with store.batch():
            for seed in seeds:
                make_picture(root / f"{seed}.png", seed)
                store.add([picture(b"%d.png" % seed, seed)])
        collection.calibrate(store, FakeEncoder)
    return root / FOLDER


@pytest.fixture
def loaded() -> list[str]:
    """The models whose text towers were loaded, in order."""
    return []


@pytest.fixture
def one(tmp_path: Path, loaded: list[str]) -> Iterator[OpenCollections]:
    def load(spec: ModelSpec) -> TextEncoder:
        loaded.append(spec.name)
        return FakeEncoder()

    with closing(OpenCollections([made(tmp_path / "a", fake_spec())], load)) as collections:
        yield collections


def test_the_answer_is_that_of_the_one_flow(one: OpenCollections) -> None:
    shown = one.answer(CAT, OPTIONS)
    scores = {n: float(unit(n) @ unit(b"a cat")) for n in range(5)}
    best_first = sorted(scores, key=lambda n: -scores[n])
    assert [hit.path for hit in shown.answer.hits] == [b"%d.png" % n for n in best_first]
    assert shown.ids == [PictureId(0, hit.id) for hit in shown.answer.hits]
    assert len(shown.answer.classes) == 5


def test_a_text_is_embedded_once_however_often_it_is_asked(
    one: OpenCollections, loaded: list[str]
) -> None:
    assert loaded == []
    first = one.answer(CAT, OPTIONS)
    like = Query((*CAT.parts, Stored(first.ids[-1].id, 0, role="good")))
    assert one.answer(like, OPTIONS).answer.hits != first.answer.hits
    assert one.answer(CAT, OPTIONS).answer.hits == first.answer.hits
    assert loaded == ["fake"]


def test_the_text_tower_is_that_of_the_model_that_the_index_has_now(
    one: OpenCollections, loaded: list[str], tmp_path: Path
) -> None:
    one.answer(CAT, OPTIONS)
    made(tmp_path / "a", fake_spec(fingerprint="e" * 64, name="another"))
    one.answer(CAT, OPTIONS)
    one.answer(CAT, OPTIONS)
    assert loaded == ["fake", "another"]
    assert one.about().model == "another"


def test_a_rebuild_with_another_model_of_the_same_dimension_is_answered_by_it(
    tmp_path: Path,
) -> None:
    """Embeddings and texts are those of one model, before and after; never one of each."""
    towers: dict[str, FakeEncoder] = {"fake": FakeEncoder(), "other": OtherEncoder()}
    directory = made(tmp_path / "a", fake_spec())
    with closing(OpenCollections([directory], lambda spec: towers[spec.name])) as collections:
        before = collections.answer(CAT, OPTIONS).answer.hits
        rebuild(directory, fake_spec(fingerprint="e" * 64, name="other"), OtherEncoder())
        after = collections.answer(CAT, OPTIONS).answer.hits
        assert towers["other"].texts
        assert [hit.path for hit in after] == [hit.path for hit in before]
        assert [hit.score for hit in after] == pytest.approx(
            [hit.score for hit in before], abs=1e-5
        )


def test_the_newest_are_listed_without_a_model(one: OpenCollections, loaded: list[str]) -> None:
    shown = one.newest(SearchOptions(k=3, classes=True))
    assert [hit.path for hit in shown.answer.hits] == [b"4.png", b"3.png", b"2.png"]
    assert shown.ids == [PictureId(0, hit.id) for hit in shown.answer.hits]
    assert (shown.answer.matching, len(shown.answer.classes)) == (5, 3)
    assert loaded == []


def test_suggestions_are_made_once_for_a_state_of_the_collections(
    one: OpenCollections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_for: list[int] = []

    def suggest(collections: list[Collection], *_: object) -> list[str]:
        made_for.append(collections[0].store.count())
        return ["a cat"]

    monkeypatch.setattr(session, "suggest", suggest)
    assert [one.suggestions(), one.suggestions()] == [["a cat"], ["a cat"]]
    assert made_for == [5]
    made(tmp_path / "a", fake_spec(), range(7))
    one.suggestions()
    assert made_for == [5, 7]


def test_indexes_of_different_models_are_an_error(tmp_path: Path) -> None:
    other = fake_spec(fingerprint="e" * 64, name="another")
    directories = [made(tmp_path / "a", fake_spec()), made(tmp_path / "b", other)]
    with (
        closing(OpenCollections(directories, lambda _: FakeEncoder())) as collections,
        pytest.raises(UsageError, match="different models"),
    ):
        collections.about()


def test_no_picture_outside_the_index_is_looked_for(one: OpenCollections, tmp_path: Path) -> None:
    make_picture(tmp_path / "new.png", 99)
    with pytest.raises(UsageError, match="not indexed"):
        one.answer(Query((Image(str(tmp_path / "new.png")),)), OPTIONS)


@pytest.mark.parametrize("text", ["", "1", "0-", "-1-1", "0-1x", "a-b", "0-1\n"])
def test_what_is_no_picture_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        PictureId.read(text)


def test_a_picture_is_named_as_it_is_read() -> None:
    assert str(PictureId.read("3-12")) == "3-12"
    assert PictureId.read("3-12") == (3, 12)
