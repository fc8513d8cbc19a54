"""What an index knows of its answers: pinned, calibrated, evaluated, each for what it was made."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, fake_spec, picture, unit

from clipsearch import paths
from clipsearch.domain import background
from clipsearch.domain.calibration import NEAR_DUPLICATE, fit_precision
from clipsearch.domain.pass_marks import Shortfall
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.errors import IndexUnreadable, NotTested, OutOfDomain
from clipsearch.evaluation.metrics import (
    evaluate_classification,
    evaluate_retrieval,
    to_data,
)
from clipsearch.records import Filter, TextEncoder, Vectors
from clipsearch.storage import calibration, collection, evaluations
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.storage.evaluations import Evaluation
from clipsearch.storage.texts import Texts

TOYS = Domain(
    "toys",
    "Things to play with",
    "en",
    ("a photo of a {}.",),
    (DomainClass("ball", (), ()), DomainClass("kite", (), ())),
    tuple(f"something to play with {n}" for n in range(60)),
    ("a tax return",),
    {"top1": 0.6},
)
LARGER = replace(TOYS, classes=(*TOYS.classes, DomainClass("doll", (), ())))


def no_encoder() -> TextEncoder:
    raise AssertionError("there is nothing to embed")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Thirty images, pinned to the toys and not yet calibrated."""
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as opened:
        with opened.batch():
            opened.add(picture(b"%d.png" % n, n) for n in range(30))
        collection.pin(opened, TOYS)
        yield opened


def vectors(store: Store) -> Vectors:
    return store.vectors(store.ids().tolist())


# -- pinned --------------------------------------------------------------------------------------


def test_an_index_without_a_domain_has_the_default(tmp_path: Path) -> None:
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as store:
        assert Collection(store).domain.name == "everyday"
        assert Collection(store).texts is None
        assert Collection(store).tested == "untested"


def test_a_pinned_domain_stays_whatever_becomes_of_its_file(store: Store) -> None:
    assert Collection(store).domain == TOYS


def test_the_class_of_a_picture_is_the_nearest_where_classes_are_embedded(store: Store) -> None:
    ids = store.ids().tolist()
    assert Collection(store).nearest_classes(ids) == {}
    collection.calibrate(store, FakeEncoder)
    known = Collection(store)
    assert known.texts is not None
    nearest = (vectors(store) @ known.texts.gate.classes.T).argmax(axis=1)
    assert set(nearest) == {0, 1}
    expected = {id: TOYS.class_names[index] for id, index in zip(ids, nearest, strict=True)}
    assert known.nearest_classes([*ids, ids[-1] + 1]) == expected
    assert known.nearest_classes([ids[-1] + 1]) == {}


# -- calibrated ----------------------------------------------------------------------------------


def test_the_false_alarm_rate_of_a_score_is_counted_in_this_collection(store: Store) -> None:
    assert collection.calibrate(store, FakeEncoder)
    prompts = background.unrelated(TOYS)
    assert len(prompts) > 500
    queries = FakeEncoder().encode_texts(prompts).astype(np.float16).astype(np.float32)
    best = (queries @ vectors(store).T).max(axis=1)
    alarms = Collection(store).false_alarms("text")
    assert alarms is not None
    for score in np.quantile(best, [0.1, 0.5, 0.9]) + 1e-5:
        expected = (1 + (best >= score).sum()) / (1 + len(best))
        assert float(alarms.rate([score])[0]) == pytest.approx(expected, abs=0.005)
    assert (alarms.rate(best) <= 0.05).mean() <= 0.05


def test_image_queries_are_calibrated_without_near_duplicates_and_their_own_class(
    store: Store,
) -> None:
    with store.batch():
        store.add([picture(b"copy.png", 0)])
    collection.calibrate(store, FakeEncoder)
    alarms = Collection(store).false_alarms("image")
    assert alarms is not None
    images = vectors(store)
    texts = Collection(store).texts
    assert texts is not None
    own = (images @ texts.gate.classes.T).argmax(axis=1)
    scores = images @ images.T
    scores[(scores >= NEAR_DUPLICATE) | (own[:, None] == own)] = -1
    np.testing.assert_allclose(alarms.best_scores, np.sort(scores.max(axis=1)), atol=1e-3)


def test_nothing_is_measured_twice(store: Store) -> None:
    encoder = FakeEncoder()
    assert collection.calibrate(store, lambda: encoder)
    asked = len(encoder.texts)
    assert asked > 500
    assert not collection.calibrate(store, no_encoder)


def test_a_changed_collection_is_measured_anew_without_the_model(store: Store) -> None:
    collection.calibrate(store, FakeEncoder)
    before = Collection(store).false_alarms("text")
    with store.batch():
        store.add([picture(b"new.png", 99)])
    assert collection.calibrate(store, no_encoder)
    grown = Collection(store).false_alarms("text")
    with store.batch():
        store.remove([b"new.png"])
    assert collection.calibrate(store, no_encoder)
    assert grown != before
    assert Collection(store).false_alarms("text") == before


def test_a_large_collection_is_measured_anew_when_a_twentieth_has_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_ALWAYS_ANEW", 10)
    collection.calibrate(store, FakeEncoder)
    with store.batch():
        store.add([picture(b"new.png", 99)])
    assert not collection.calibrate(store, no_encoder)
    with store.batch():
        store.add([picture(b"newer.png", 100)])
    assert collection.calibrate(store, no_encoder)


def test_another_domain_is_measured_anew_and_the_old_figures_count_no_more(store: Store) -> None:
    collection.calibrate(store, FakeEncoder)
    collection.pin(store, LARGER)
    assert Collection(store).texts is None
    assert Collection(store).false_alarms("text") is None
    assert collection.calibrate(store, FakeEncoder)
    assert Collection(store).false_alarms("text") is not None


def test_reordered_classes_keep_their_own_embeddings(store: Store, tmp_path: Path) -> None:
    """In the index itself, and in another one that takes the texts from the cache."""
    collection.calibrate(store, FakeEncoder)
    before = nearest(store)
    assert len(set(before.values())) == 2
    examples = tuple(reversed(TOYS.in_domain))
    reordered = replace(TOYS, classes=tuple(reversed(TOYS.classes)), in_domain=examples)
    collection.pin(store, reordered)
    assert collection.calibrate(store, FakeEncoder)
    assert nearest(store) == before
    assert_rows_are_their_own(store)
    collection.pin(store, TOYS)
    assert collection.calibrate(store, no_encoder)  # of the cache, which has both orders
    assert nearest(store) == before
    assert_rows_are_their_own(store)


def nearest(store: Store) -> dict[int, str]:
    return Collection(store).nearest_classes(store.ids().tolist())


def assert_rows_are_their_own(store: Store) -> None:
    """Each class and each example has the embedding of its own texts."""
    known = Collection(store)
    assert known.texts is not None
    expected = Texts.embed(known.domain, FakeEncoder())
    np.testing.assert_allclose(known.texts.gate.classes, expected.gate.classes, atol=1e-3)
    assert known.texts.gate.threshold == pytest.approx(expected.gate.threshold, abs=1e-2)


def test_an_empty_collection_has_no_false_alarms(tmp_path: Path) -> None:
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as store:
        collection.pin(store, TOYS)
        collection.calibrate(store, FakeEncoder)
        assert Collection(store).false_alarms("text") is None
        assert not collection.calibrate(store, no_encoder)
        with store.batch():
            store.add([picture(b"new.png", 99)])
        assert collection.calibrate(store, no_encoder)


def test_texts_are_embedded_once_for_all_collections_of_a_model(
    store: Store, tmp_path: Path
) -> None:
    collection.calibrate(store, FakeEncoder)
    for name, spec, load in (
        ("same", fake_spec(), no_encoder),
        ("other model", fake_spec(fingerprint="e" * 64), FakeEncoder),
    ):
        (tmp_path / name).mkdir()
        with Store.create(tmp_path / name / FOLDER, tmp_path / name, spec) as another:
            collection.pin(another, TOYS)
            assert collection.calibrate(another, load)


@pytest.mark.parametrize("damage", [b"", b"PK", b"no archive at all"])
def test_a_damaged_cache_is_made_anew(store: Store, damage: bytes) -> None:
    collection.calibrate(store, FakeEncoder)
    (kept,) = (paths.cache_dir() / "texts").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    with store.batch():
        store.detach("texts")
    assert collection.calibrate(store, FakeEncoder)
    assert kept.read_bytes() == whole


def test_texts_survive_being_kept(store: Store) -> None:
    texts = Texts.embed(TOYS, FakeEncoder())
    again = Texts.from_bytes(TOYS, texts.to_bytes(TOYS))
    assert again is not None
    np.testing.assert_allclose(again.background, texts.background, atol=1e-3)
    np.testing.assert_allclose(again.gate.classes, texts.gate.classes, atol=1e-3)
    assert Texts.from_bytes(LARGER, texts.to_bytes(TOYS)) is None


def test_the_gate_is_open_before_the_first_calibration(store: Store) -> None:
    Collection(store).check("a tax return", unit(1))
    collection.calibrate(store, FakeEncoder)
    (vector,) = FakeEncoder().encode_texts(["a tax return"])
    with pytest.raises(OutOfDomain, match="toys; its nearest classes are"):
        Collection(store).check("a tax return", vector)
    Collection(store).check("a kite", unit(2))


# -- evaluated -----------------------------------------------------------------------------------


def evaluation(store: Store, *shortfalls: Shortfall, domain: Domain = TOYS) -> Evaluation:
    images = vectors(store)
    report = evaluate_classification(images, images[:2], np.arange(30) % 2, ("ball", "kite"))
    scores = np.linspace(0, 1, 30)
    precision = fit_precision(scores, scores > 0.4, np.arange(30))
    return Evaluation(
        model=store.spec.fingerprint,
        domain=domain.fingerprint,
        test_set="t" * 64,
        source="labelled",
        made_at="2024-05-03T12:30:00+00:00",
        report=to_data(report),
        measures=report.measures(),
        shortfalls=shortfalls,
        precision=precision,
        indexed=30,
        collection=30,
        newest=int(store.ids().max()),
    )


def attach(store: Store, found: Evaluation) -> None:
    with store.batch():
        store.attach("evaluation", found.to_json())


def test_an_evaluation_survives_being_kept(store: Store) -> None:
    found = evaluation(store, Shortfall("top1", 0.5, 0.6), Shortfall("images", None, 50))
    assert Evaluation.from_json(found.to_json()) == found
    pictures = vectors(store)
    captions = evaluate_retrieval(pictures, pictures, np.arange(30))
    found = replace(found, report=to_data(captions), precision=None)
    assert Evaluation.from_json(found.to_json()) == found
    json.loads(found.to_json())
    attach(store, replace(evaluation(store), source="caf\udcff"))  # a path that is no text
    assert [kept.source for kept in Collection(store).evaluations] == ["caf\udcff"]


def test_pass_marks_that_were_met_make_an_index_tested(store: Store) -> None:
    with pytest.raises(NotTested, match="untested on the domain toys") as caught:
        Collection(store).require_tested()
    assert "clipsearch evaluate LABELED" in caught.value.hint
    attach(store, evaluation(store, Shortfall("top1", 0.5, 0.6)))
    assert Collection(store).tested == "failed"
    with pytest.raises(NotTested, match="failed on the domain toys") as caught:
        Collection(store).require_tested()
    assert "top1 0.5 is below the mark 0.6" in caught.value.hint
    attach(store, evaluation(store))
    assert Collection(store).tested == "tested"
    Collection(store).require_tested()


def test_an_evaluation_counts_for_its_own_domain_and_model_only(store: Store) -> None:
    attach(store, evaluation(store, domain=LARGER))
    assert Collection(store).tested == "untested"
    attach(store, replace(evaluation(store), model="e" * 64))
    assert Collection(store).tested == "untested"
    attach(store, evaluation(store))
    assert Collection(store).tested == "tested"
    collection.pin(store, LARGER)
    assert Collection(store).tested == "untested"


def captions(store: Store, domain: Domain, *shortfalls: Shortfall) -> Evaluation:
    pictures = vectors(store)
    report = evaluate_retrieval(pictures, pictures, np.arange(30))
    found = evaluation(store, *shortfalls, domain=domain)
    return replace(found, report=to_data(report), measures=report.measures(), logit_scale=None)


def test_captions_do_not_take_the_place_of_labels(store: Store) -> None:
    """The domain has marks for labels alone: captions can neither meet nor miss them."""
    labels = replace(evaluation(store), logit_scale=12.5)
    evaluations.keep(store, labels)
    evaluations.keep(store, captions(store, TOYS, Shortfall("top1", None, 0.6)))
    assert Collection(store).tested == "tested"
    assert Collection(store).evaluation == labels
    assert Collection(store).logit_scale == 12.5
    assert len(Collection(store).evaluations) == 2


def test_a_domain_with_marks_for_both_is_failed_by_either(store: Store) -> None:
    both = replace(TOYS, pass_marks={"top1": 0.6, "image_recall_at_1": 0.5})
    collection.pin(store, both)
    evaluations.keep(store, evaluation(store, domain=both))
    assert Collection(store).tested == "tested"
    missed = captions(store, both, Shortfall("image_recall_at_1", 0.1, 0.5))
    evaluations.keep(store, missed)
    assert Collection(store).tested == "failed"
    assert Collection(store).evaluation == missed
    evaluations.keep(store, captions(store, both))
    assert Collection(store).tested == "tested"


def test_a_hit_of_a_text_query_carries_the_probability_that_it_is_right(store: Store) -> None:
    attach(store, evaluation(store))
    hits = store.search(unit(3), 5)
    judged = Collection(store).judged(hits, "text")
    found = Collection(store).evaluation
    assert found is not None
    assert found.precision is not None
    expected = found.precision.probability([hit.score for hit in hits])
    np.testing.assert_allclose([hit.precision for hit in judged], expected)
    assert {hit.tested for hit in judged} == {"tested"}
    assert {hit.precision for hit in Collection(store).judged(hits, "image")} == {None}
    among = Collection(store).judged(hits, "text", Filter(under=b"folder"))
    assert {hit.precision for hit in among} == {None}


def test_precision_is_told_only_of_the_collection_that_was_the_test_set(store: Store) -> None:
    found = evaluation(store)
    assert found.report["images"] == len(store.ids()) == 30

    def told(**changes: int) -> bool:
        attach(store, replace(found, **changes))
        (hit,) = Collection(store).judged(store.search(unit(3), 1), "text")
        return hit.precision is not None

    assert told()
    assert told(indexed=27)
    assert not told(indexed=26)  # the other four of the test set lie elsewhere
    assert not told(indexed=0, collection=0, newest=0)  # kept before this was asked
    assert not told(collection=34)  # four were removed since, perhaps of the test set
    ids = store.ids()
    with store.batch():
        store.add([picture(b"new %d" % n, 900 + n) for n in range(3)])
    assert told()
    with store.batch():
        store.add([picture(b"newer", 910)])
    assert not told()
    assert found.was_of(ids[3:])
    assert not found.was_of(ids[4:])


def test_there_may_be_nothing_to_judge(store: Store) -> None:
    collection.calibrate(store, FakeEncoder)
    assert Collection(store).judged([], "text") == []


# -- damaged, or carried over --------------------------------------------------------------------

GARBAGE = [b"\0garbage", "garbage", "[]", '{"domain": 1']


@pytest.mark.parametrize("garbage", GARBAGE)
def test_damaged_measurements_count_as_none_and_are_made_again(
    store: Store, garbage: str | bytes
) -> None:
    collection.calibrate(store, FakeEncoder)
    with store.batch():
        for name in ("texts", "calibration", "evaluation"):
            store.attach(name, garbage)
    found = Collection(store)
    assert (found.texts, found.evaluation, found.false_alarms("text")) == (None, None, None)
    assert found.tested == "untested"
    assert collection.calibrate(store, FakeEncoder)
    assert Collection(store).false_alarms("text") is not None


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_domain_is_an_error_and_no_other_stands_in_for_it(
    store: Store, garbage: str | bytes
) -> None:
    with store.batch():
        store.attach("domain", garbage)
    with pytest.raises(IndexUnreadable, match="domain") as caught:
        assert Collection(store).domain
    assert "--domain" in caught.value.hint
    collection.pin(store, TOYS)
    assert Collection(store).domain == TOYS


def test_a_rebuilt_index_keeps_what_it_cannot_make_again(store: Store, tmp_path: Path) -> None:
    collection.calibrate(store, FakeEncoder)
    attach(store, evaluation(store))
    with store.batch():
        store.attach("probe:lab", b"a probe")
    for fingerprint, tested in ((store.spec.fingerprint, "tested"), ("e" * 64, "untested")):
        spec = fake_spec(fingerprint=fingerprint)
        with Store.create(tmp_path / fingerprint, tmp_path, spec) as new:
            collection.carry_over(store, new)
            assert new.attached("") == ["domain", "evaluation", "probe:lab"]
            assert Collection(new).domain == TOYS
            assert Collection(new).tested == tested
