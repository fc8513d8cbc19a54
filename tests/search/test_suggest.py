"""Suggestions: names that are answered strongly when they are asked, and no two for one image."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeEncoder, fake_spec, picture, unit

from clipsearch.models.load import Encoders
from clipsearch.records import Filter, Vectors
from clipsearch.search.answer import answer
from clipsearch.search.query import Query, SearchOptions, Text
from clipsearch.search.suggest import suggest
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.vectors import l2_normalise

ENCODERS = Encoders(FakeEncoder, FakeEncoder)


def made(
    root: Path, names: list[bytes], vectors: list[Vectors], *, calibrated: bool = True
) -> Path:
    root.mkdir()
    with Store.create(root / FOLDER, root, fake_spec()) as store:
        with store.batch():
            store.add(
                replace(picture(name, n), vector=vector)
                for n, (name, vector) in enumerate(zip(names, vectors, strict=True))
            )
        if calibrated:
            collection.calibrate(store, FakeEncoder)
    return root / FOLDER


def like(root: Path, classes: list[str]) -> Path:
    """Images of classes, and others that mean nothing."""
    with Store.open(
        made(root.with_name("texts"), [b"0.png"], [picture(b"0.png", 0).vector])
    ) as store:
        known = Collection(store)
        assert known.texts is not None
        embedded = dict(zip(known.domain.class_names, known.texts.gate.classes, strict=True))
    # Near both to the class by its prompts and to its name, as a person would ask for it.
    shown = [l2_normalise(embedded[name] + unit(name.encode())) for name in classes]
    names = [b"shown/%d.png" % n for n in range(len(shown))] + [
        b"other/%d.png" % n for n in range(30)
    ]
    return made(root, names, [*shown, *(picture(b"", n).vector for n in range(30))])


def test_every_suggestion_is_answered_strongly(tmp_path: Path) -> None:
    with Store.open(like(tmp_path / "a", ["cat", "bridge", "guitar"])) as store:
        known = [Collection(store)]
        suggested = suggest(known, ENCODERS)
        assert {"cat", "bridge", "guitar"} <= set(suggested)
        for name in suggested:
            found = answer(known, Query((Text(name),)), SearchOptions(), ENCODERS)
            assert found.judgment.verdict == "strong"


def test_no_two_are_for_one_picture_and_only_what_passes_is_looked_at(tmp_path: Path) -> None:
    with Store.open(like(tmp_path / "a", ["cat", "bridge"])) as store:
        known = [Collection(store)]
        shown = suggest(known, ENCODERS, Filter(under=b"shown"))
        assert len(shown) <= 2
        assert set(suggest(known, ENCODERS, most=1)) < set(suggest(known, ENCODERS))
        assert not {"cat", "bridge"} & set(suggest(known, ENCODERS, Filter(under=b"other")))
        assert suggest(known, ENCODERS, Filter(under=b"nowhere")) == []


def test_nothing_is_suggested_before_scores_mean_anything(tmp_path: Path) -> None:
    vectors = [picture(b"", n).vector for n in range(3)]
    directory = made(tmp_path / "a", [b"%d.png" % n for n in range(3)], vectors, calibrated=False)
    with Store.open(directory) as store:
        assert suggest([Collection(store)], ENCODERS) == []


def test_pictures_are_read_at_the_moment_at_which_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an index run removed in between would be missing."""
    inside, vectors = list[bool](), Store.vectors

    def noted(store: Store, ids: Sequence[int]) -> Vectors:
        inside.append(store._db._connection.in_transaction)
        return vectors(store, ids)

    root = tmp_path / "photos"
    names = [b"%d.png" % n for n in range(5)]
    directory = made(root, names, [unit(n) for n in range(5)])
    monkeypatch.setattr(Store, "vectors", noted)
    with Store.open(directory) as store:
        suggest([Collection(store)], ENCODERS)
        assert Collection(store).level(Filter(ids=frozenset({1, 2}))) is not None
    assert inside == [True, True]
