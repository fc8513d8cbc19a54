"""Whatever stands where an index keeps what it knows: used, passed over, or named as damaged.

Not garbage, which no reader takes for JSON, but valid JSON in which one value is of another kind,
missing or absurd. Each such text is put in the place of the whole one, and everything that reads
it is called.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEncoder, fake_spec, picture, unit, unsynchronised

from clipsearch.cli.render.json_lines import json_line
from clipsearch.cli.render.status import status_record, status_text
from clipsearch.domain.calibration import fit_precision
from clipsearch.domain.pass_marks import Shortfall
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.errors import ClipsearchError, IndexUnreadable
from clipsearch.evaluation.metrics import (
    evaluate_classification,
    evaluate_retrieval,
    to_data,
)
from clipsearch.search.duplicates import likeness
from clipsearch.search.duplicates.likeness import Likeness
from clipsearch.storage import collection, evaluations
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.storage.evaluations import Evaluation
from clipsearch.storage.texts import Texts

TOYS = Domain(
    "toys",
    "Things to play with",
    "en",
    ("a photo of a {}.",),
    (DomainClass("ball", ("sphere",), ("a round ball.",)), DomainClass("kite")),
    tuple(f"something to play with {n}" for n in range(60)),
    ("a tax return",),
    {"top1": 0.6},
)
OTHERS = (None, True, 0, -1, 10**30, -1.5, "", "x", "\ud800", "\x1b[2J", [], [1, [2]], {}, {"a": 1})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Thirty images, calibrated and evaluated in both ways."""
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as opened:
        unsynchronised(opened)
        with opened.batch():
            opened.add(picture(b"%d.png" % n, n) for n in range(30))
        collection.pin(opened, TOYS)
        collection.calibrate(opened, FakeEncoder)
        images = opened.vectors(opened.ids().tolist())
        labels = evaluate_classification(images, images[:2], np.arange(30) % 2, ("ball", "kite"))
        precision = fit_precision(np.linspace(0, 1, 30), np.arange(30) > 12, np.arange(30))
        found = Evaluation(
            model=opened.spec.fingerprint,
            domain=TOYS.fingerprint,
            test_set="t" * 64,
            source="labelled",
            made_at="2024-05-03T12:30:00+00:00",
            report=to_data(labels),
            measures=labels.measures(),
            shortfalls=(Shortfall("top1", 0.5, 0.6),),
            precision=precision,
            logit_scale=12.5,
        )
        evaluations.keep(opened, found)
        captions = evaluate_retrieval(images, images, np.arange(30))
        of_captions = replace(found, report=to_data(captions), measures=captions.measures())
        evaluations.keep(opened, of_captions)
        yield opened


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in it; of a long list, to the first two."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list):
        for n in range(min(2, len(value))):
            yield from places(value[n], (*at, n))


def damaged(text: str) -> Iterator[str]:
    """The text with a few other values in each of its places, and without each of them."""
    whole = json.loads(text)
    for n, way in enumerate(places(whole)):
        for other in (*OTHERS[n % 7 :: 7], "gone"):
            if not way:
                yield json.dumps(other)
                continue
            value = copy.deepcopy(whole)
            inner = value
            for key in way[:-1]:
                inner = inner[key]
            if other == "gone":
                del inner[way[-1]]
            else:
                inner[way[-1]] = other
            yield json.dumps(value)


def read_everything(store: Store) -> str:
    """All that commands tell of an index and its answers."""
    found, query = Collection(store), unit(3)
    said = [collection.tested_line(found), status_text(store.status(), found, "here")]
    json_line(status_record(store.status(), found))
    hits = store.search(query, 5)
    for kind in ("text", "image", "probe"):
        found.false_alarms(kind)
        json_line([str(hit) for hit in found.judged(hits, kind)])
    for refusing in (found.require_tested, lambda: found.check("a tax return", query)):
        try:
            refusing()
        except ClipsearchError as error:
            said.append(str(error))
    assert found.logit_scale > 0
    return "\n".join(said)


@pytest.mark.parametrize("name", ["calibration", "evaluation", "evaluation of captions"])
@pytest.mark.process
def test_a_measurement_with_something_else_in_it_is_used_or_counts_as_none(
    store: Store, name: str
) -> None:
    whole = store.attachment(name)
    count = 0
    for text in damaged(whole):
        with store.batch():
            store.attach(name, text)
        said = read_everything(store)
        assert "\x1b" not in said
        count += 1
    assert count > 20
    if name == "calibration":
        with store.batch():
            store.attach(name, "[]")
        assert collection.calibrate(store, FakeEncoder)
        assert store.attachment(name) == whole


def test_a_domain_with_something_else_in_it_is_used_or_named_as_damaged(store: Store) -> None:
    whole = store.attachment("domain")
    refused = count = 0
    for text in damaged(whole):
        with store.batch():
            store.attach("domain", text)
        try:
            read_everything(store)
        except IndexUnreadable as error:
            refused += "--domain" in error.hint
        count += 1
    assert count > 60
    assert 0.3 * count < refused < count


def test_a_scale_of_another_shape_is_measured_again(store: Store) -> None:
    whole = Collection(store).scale
    assert whole is not None
    few = {kind: mean[:5] for kind, mean in whole.means.items()}
    for damaged_scale in (
        replace(whole, covariance=whole.covariance[:5]),
        replace(whole, means=few),
        replace(whole, covariance=whole.covariance[:5, :5], means=few),
    ):
        with store.batch():
            store.attach("scale", damaged_scale.to_bytes())
        assert Collection(store).scale is None
        assert collection.calibrate(store, FakeEncoder)
        assert Collection(store).scale is not None


def test_a_likeness_with_something_else_in_it_is_used_or_counts_as_none(store: Store) -> None:
    whole = Likeness(store.spec.fingerprint, 30, 30, 8, 0.9, 0.8, 0.95, 0.7, 0.0)
    used = 0
    for text in (whole.to_json(), *damaged(whole.to_json())):
        with store.batch():
            store.attach("likeness", text)
        found = likeness.kept(store)
        if found is not None:
            used += 1
            likeness.is_outdated(found, store)
            assert {type(value) for value in astuple(found)[1:]} <= {int, float}
    assert used > 0


def test_texts_of_another_shape_are_embedded_again(store: Store) -> None:
    whole = Collection(store).texts
    assert whole is not None
    smaller = replace(TOYS, classes=(*TOYS.classes, DomainClass("doll")))
    of_another = Texts.embed(smaller, FakeEncoder())
    short = Texts(whole.gate, whole.background[:, :5])
    longer = Texts.embed(TOYS, FakeEncoder(dim=20))
    for texts in (of_another, short, longer):
        with store.batch():
            store.attach("texts", texts.to_bytes(TOYS))
        assert Collection(store).texts is None
        read_everything(store)
        assert collection.calibrate(store, FakeEncoder)
        assert Collection(store).texts is not None
