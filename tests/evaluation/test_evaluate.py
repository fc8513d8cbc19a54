"""Evaluations: what is measured, what the index keeps of it, and when that counts."""

import dataclasses
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import DIM, DecodeHere, FakeEncoder, fake_spec, unit

from clipsearch.domain import taxonomy
from clipsearch.domain.taxonomy import Domain
from clipsearch.errors import (
    ModelMismatch,
    NothingLearned,
    RefusedByPolicy,
    TooFewExamples,
    UsageError,
)
from clipsearch.evaluation import evaluate, labelled, probes, summary, train, wording
from clipsearch.evaluation.classify import Labels, classes_of
from clipsearch.evaluation.evaluate import Findings
from clipsearch.evaluation.metrics import ClassificationReport, MultiLabelReport, RetrievalReport
from clipsearch.indexing import embed
from clipsearch.models.load import Encoders
from clipsearch.records import EmbeddedImage, Filter, ImageFile, Pixels, Vectors
from clipsearch.search.embed import class_index
from clipsearch.storage import collection, evaluations
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.vectors import l2_normalise

NAMES = ("crack", "dent", "scratch", "stain")

DOMAIN = """
name = "parts"
templates = ["{}"]
in_domain = ["something broken", "a mark on metal"]
out_of_domain = ["quarterly revenue"]
classes = [{name = "crack"}, {name = "dent"}, {name = "scratch"}, {name = "stain"}]
pass_marks = {images = 5, top1 = 0.75, refused_in_domain = 0.5}
"""


class ColourEncoder(FakeEncoder):
    """An image's red is the number of its class, and its other colors a little noise."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        self.batches.append(len(pixels))
        return np.stack([self._embed(*one[4, 4]) for one in pixels])

    @staticmethod
    def _embed(red: int, green: int, blue: int) -> Vectors:
        noise = unit(bytes([green, blue]))
        return l2_normalise(unit(NAMES[red // 60].encode()) + 0.3 * noise)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        # A query is about its last word.
        return super().encode_texts([text.split()[-1] for text in texts])


def make(folder: Path, name: str, shows: str, n: int) -> None:
    from PIL import Image

    path = folder / name / f"{shows}{n}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (60 * NAMES.index(shows), 20 * n, 7 * n)).save(path)


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)


@pytest.fixture
def domain() -> Domain:
    return taxonomy.parse(DOMAIN, "parts.toml")


@pytest.fixture
def store(tmp_path: Path, domain: Domain) -> Iterator[Store]:
    root = tmp_path / "photos"
    root.mkdir()
    with Store.create(root / ".clipsearch", root, fake_spec()) as made:
        collection.pin(made, domain)
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of each class, one dent among the scratches."""
    root = tmp_path / "set"
    for name in NAMES:
        for n in range(3):
            make(root, name, name, n)
    (root / "dent/dent1.png").rename(root / "scratch/dent1.png")
    return root


def run(store: Store, source: Path) -> Findings:
    test_set = labelled.read(source, Collection(store).domain)
    encoder = ColourEncoder()
    return evaluate.evaluate(store, test_set, Encoders(lambda: encoder, lambda: encoder))


def test_a_folder_is_measured_and_the_result_is_kept(store: Store, folder: Path) -> None:
    assert Collection(store).tested == "untested"
    findings = run(store, folder)
    report = findings.report
    assert isinstance(report, ClassificationReport)
    assert (report.images, report.classes) == (12, 4)
    assert report.top1.value == pytest.approx(11 / 12)
    assert [(c.actual, c.predicted, c.count) for c in report.confusions] == [("scratch", "dent", 1)]
    assert findings.evaluation.measures["refused_in_domain"] == 0
    assert findings.evaluation.shortfalls == ()
    again = Collection(store)
    assert again.tested == "tested"
    assert again.evaluation == findings.evaluation
    assert again.logit_scale == findings.evaluation.logit_scale
    answers = findings.answers
    assert answers is not None
    assert [one.images for one in answers.per_class] == [3, 2, 4, 3]
    assert answers.absent_answered is None
    assert findings.evaluation.measures["list_f1"] == answers.list_f1.value
    assert findings.evaluation.report["answers"] == answers.to_data()
    # Two forms of a query for each class, ten hits each: all that is of a class is among them.
    precision = findings.evaluation.precision
    assert precision is not None
    assert (precision.hits, precision.right) == (80, 24)
    assert precision.brier < precision.brier_of_base_rate
    assert precision.probability([0.9])[0] > 0.7 > 0.3 > precision.probability([0.1])[0]


def test_marks_that_are_not_met_make_it_a_failure(store: Store, folder: Path) -> None:
    collection.pin(store, taxonomy.parse(DOMAIN.replace("0.75", "0.95"), "parts.toml"))
    findings = run(store, folder)
    (missed,) = findings.evaluation.shortfalls
    assert (missed.measure, missed.mark) == ("top1", 0.95)
    assert Collection(store).tested == "failed"


def test_an_evaluation_of_another_domain_does_not_count(store: Store, folder: Path) -> None:
    run(store, folder)
    collection.pin(store, taxonomy.parse(DOMAIN.replace("0.75", "0.74"), "parts.toml"))
    assert Collection(store).tested == "untested"
    assert Collection(store).logit_scale == 100
    collection.pin(store, taxonomy.parse(DOMAIN.replace('"parts"', '"renamed"'), "parts.toml"))
    assert Collection(store).tested == "tested"


def test_an_evaluation_of_another_model_does_not_count(store: Store, folder: Path) -> None:
    found = run(store, folder).evaluation
    evaluations.keep(store, dataclasses.replace(found, model="0" * 64))
    assert Collection(store).tested == "untested"
    evaluations.keep(store, found)
    assert Collection(store).tested == "tested"


def test_embeddings_of_the_index_are_reused(store: Store, folder: Path) -> None:
    first = run(store, folder)
    assert first.reused == 0
    from clipsearch.images import scan
    from clipsearch.indexing.reconcile import reconcile

    root = store.root / "copies"
    root.mkdir()
    for n, path in enumerate(sorted(folder.rglob("*.png"))[:5]):
        (root / f"{n}.png").write_bytes(path.read_bytes())
    found = scan.find(os.fsencode(store.root))
    reconcile(store, found, ColourEncoder)
    second = run(store, folder)
    assert second.reused == 5
    assert second.evaluation.test_set == first.evaluation.test_set
    assert second.evaluation.measures == pytest.approx(first.evaluation.measures)


def test_a_table_of_labels_is_the_same_test_set(store: Store, folder: Path) -> None:
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in folder.rglob("*.png")]
    (folder / "labels.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    of_folder, of_table = run(store, folder), run(store, folder / "labels.csv")
    assert of_table.evaluation.test_set == of_folder.evaluation.test_set
    assert of_table.report == of_folder.report


def test_several_labels_a_picture(store: Store, folder: Path) -> None:
    run(store, folder)
    rows = [f"crack/crack{n}.png,crack" for n in range(3)] + ["crack/crack0.png,dent"]
    rows += [f"stain/stain{n}.png,stain" for n in range(3)]
    (folder / "several.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    findings = run(store, folder / "several.csv")
    report = findings.report
    assert isinstance(report, MultiLabelReport)
    assert (report.images, report.labels) == (6, 7)
    measures = findings.evaluation.measures
    assert measures.keys() == {
        *("mean_average_precision", "images", "refused_in_domain"),
        *("found", "absent_answered", "list_precision", "list_recall", "list_f1"),
    }
    assert findings.evaluation.logit_scale is None
    assert summary.mistakes(findings) == []
    # One of the marks cannot be met by it, and the evaluation with single labels still stands.
    assert [missed.measure for missed in findings.evaluation.shortfalls] == ["top1"]
    assert Collection(store).tested == "tested"
    assert len(Collection(store).evaluations) == 2
    wanted = DOMAIN.replace("images = 5, top1 = 0.75", "images = 6, found = 0.1")
    collection.pin(store, taxonomy.parse(wanted, "parts.toml"))
    assert run(store, folder / "several.csv").evaluation.shortfalls == ()
    assert Collection(store).tested == "tested"


def test_precision_is_fitted_to_all_that_a_picture_shows(store: Store, folder: Path) -> None:
    rows = [f"{path.relative_to(folder)},{path.name[:-5]}" for path in folder.rglob("*.png")]
    rows += ["crack/crack0.png,dent"]
    (folder / "several.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    precision = run(store, folder / "several.csv").evaluation.precision
    assert precision is not None
    assert precision.hits == 80
    assert precision.right in (25, 26)  # 24 as before, and the dent where it is among the ten


def test_captions_are_measured_as_retrieval(store: Store, folder: Path) -> None:
    rows = [f"{name}/{name}0.png,an image of a {name}" for name in NAMES]
    rows += ["dent/dent0.png,what a dent", "dent/dent2.png,a big stain"]
    (folder / "captions.csv").write_text("path,caption\n" + "\n".join(rows) + "\n")
    findings = run(store, folder / "captions.csv")
    report = findings.report
    assert isinstance(report, RetrievalReport)
    assert (report.images, report.captions) == (5, 6)
    assert report.image_ranks[5] > 0
    assert report.image_recall[1].value == pytest.approx(np.mean(np.array(report.image_ranks) < 1))
    assert findings.evaluation.logit_scale is None
    assert findings.answers is None
    # The domain asks for top1, which captions cannot show.
    assert [missed.measure for missed in findings.evaluation.shortfalls] == ["top1"]
    assert Collection(store).evaluation == findings.evaluation


def test_a_caption_that_the_policy_refuses(store: Store, folder: Path) -> None:
    text = "path,caption\ndent/dent0.png,identify this man\n"
    (folder / "captions.csv").write_text(text)
    with pytest.raises(RefusedByPolicy):
        run(store, folder / "captions.csv")
    assert Collection(store).evaluation is None


def test_pictures_that_cannot_be_decoded_do_not_count(store: Store, folder: Path) -> None:
    (folder / "crack/broken.png").write_bytes(b"no picture")
    findings = run(store, folder)
    assert findings.report.images == 12
    ((path, reason),) = findings.skipped
    assert path == b"crack/broken.png"
    assert "not an image" in reason
    assert b"crack/broken.png" not in findings.test_set.paths


def test_no_picture_that_can_be_decoded(store: Store, tmp_path: Path) -> None:
    (tmp_path / "bad/crack").mkdir(parents=True)
    (tmp_path / "bad/crack/x.png").write_bytes(b"no picture")
    with pytest.raises(TooFewExamples, match="none of the 1 images"):
        run(store, tmp_path / "bad")
    assert Collection(store).evaluation is None


def test_one_picture_a_class_is_measured_and_says_so(store: Store, tmp_path: Path) -> None:
    for name in NAMES:
        make(tmp_path / "few", name, name, 0)
    findings = run(store, tmp_path / "few")
    assert findings.report.images == findings.evaluation.images == 4
    assert any("single image" in note for note in findings.report.notes)
    assert [missed.measure for missed in findings.evaluation.shortfalls] == ["images"]
    assert findings.tested == Collection(store).tested == "untested"


@pytest.mark.parametrize(("marks", "n"), [("images = 5, ", 1), ("", 29)])
def test_a_test_of_too_few_pictures_changes_nothing(
    store: Store, folder: Path, tmp_path: Path, marks: str, n: int
) -> None:
    for name in NAMES:
        for m in range(3, 9):
            make(folder, name, name, m)
    collection.pin(store, taxonomy.parse(DOMAIN.replace("images = 5, ", marks), "parts.toml"))
    passed = run(store, folder)
    assert passed.tested == Collection(store).tested == "tested"
    for m in range(n):
        make(tmp_path / "wrong", "crack", "dent", m)
    wrong = run(store, tmp_path / "wrong")
    assert "top1" in [missed.measure for missed in wrong.evaluation.shortfalls]
    assert wrong.tested == "untested"
    assert Collection(store).evaluation == passed.evaluation


# -- probes --------------------------------------------------------------------------------------


@pytest.fixture
def kept(store: Store, folder: Path, domain: Domain) -> probes.KeptProbe:
    for name in NAMES:
        for n in range(3, 6):
            make(folder, name, name, n)
    own = labelled.own_taxonomy(folder, domain)
    training = labelled.read(folder, own)
    assert isinstance(training, labelled.LabelledImages)
    encoder = ColourEncoder()
    root = os.fsencode(folder)
    found = embed.embeddings_of(
        root, training.paths, store.spec, None, lambda: encoder, lambda *_: None
    )
    words = wording.text_embeddings(own, wording.AS_LABELED, encoder)
    made = train.make("defects", store, training, found.vectors, own, words)
    probes.keep(store, made)
    return made


def test_a_probe_is_kept_with_what_it_is_worth(store: Store, kept: probes.KeptProbe) -> None:
    assert probes.names(store) == ["defects"]
    again = probes.load(store, "defects")
    assert again.probe.classes == NAMES
    assert dataclasses.replace(again, probe=kept.probe) == kept
    assert kept.images == (6, 5, 7, 6)
    assert kept.most_frequent == pytest.approx(7 / 24)
    assert kept.held_out.value >= 22 / 24
    assert kept.held_out.n == kept.zero_shot.n == 24
    probes.remove(store, "defects")
    assert probes.names(store) == []
    for use in (probes.load, probes.ready, probes.remove, probes.query):
        with pytest.raises(UsageError, match="has no probe 'defects'"):
            use(store, "defects")


def test_a_probe_that_is_no_better_than_guessing_is_not_kept(
    store: Store, kept: probes.KeptProbe, tmp_path: Path
) -> None:
    for name in ("crack", "dent"):  # the same images in both
        for n in range(5):
            make(tmp_path / "same", name, "stain", n)
    encoder = ColourEncoder()
    encoders = Encoders(lambda: encoder, lambda: encoder)
    with pytest.raises(NothingLearned, match=r"gets \d+\.\d% right.*guessing gets 50\.0%"):
        train.train_on(tmp_path / "same", "defects", store, encoders)
    assert probes.load(store, "defects").made_at == kept.made_at
    assert kept.recall is not None
    assert kept.recall.low > kept.guessing == 1 / 4


def test_a_probe_of_an_earlier_version_does_not_tell_its_recall(
    store: Store, kept: probes.KeptProbe
) -> None:
    probes.keep(store, dataclasses.replace(kept, recall=None))
    assert probes.load(store, "defects").recall is None


def test_a_probe_of_an_earlier_version_is_still_whole(kept: probes.KeptProbe) -> None:
    with np.load(io.BytesIO(kept.to_bytes())) as arrays:
        about, weights = json.loads(str(arrays["about"])), arrays["probe"]
    del about["scale"], about["notes"]  # it began at zero
    file = io.BytesIO()
    np.savez(file, about=np.array(json.dumps(about)), probe=weights)
    again = probes.KeptProbe.from_bytes(file.getvalue())
    assert (again.scale, again.notes, again.held_out) == (None, (), kept.held_out)


def test_a_probe_is_searched_with_by_class(store: Store, kept: probes.KeptProbe) -> None:
    for at, name in enumerate(NAMES):
        query = probes.query(store, f"defects/{name.upper()}")
        assert query.shape == (DIM,)
        np.testing.assert_allclose(query, kept.probe.directions[at], atol=1e-5)
        assert np.argmax(np.stack([unit(other.encode()) for other in NAMES]) @ query) == at
    with pytest.raises(UsageError, match="has no class 'hole'") as caught:
        probes.query(store, "defects/hole")
    assert "@defects/crack, @defects/dent" in caught.value.hint
    with pytest.raises(UsageError, match="several classes"):
        probes.query(store, "defects")


def test_a_probe_named_after_a_class_means_that_class(store: Store, kept: probes.KeptProbe) -> None:
    probes.keep(store, dataclasses.replace(kept, name="dents"))
    np.testing.assert_allclose(probes.query(store, "dents"), kept.probe.directions[1], atol=1e-5)


def test_a_probe_of_another_model_is_not_used(store: Store, kept: probes.KeptProbe) -> None:
    probes.keep(store, dataclasses.replace(kept, model="0" * 64))
    assert probes.load(store, "defects").model == "0" * 64
    for use in (probes.ready, probes.query):
        with pytest.raises(ModelMismatch, match="another model"):
            use(store, "defects")


@pytest.mark.parametrize("name", ["", "a/b", "@x", "a b", "-x", "x\n"])
def test_names_that_no_command_line_can_hold(name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid name for a probe"):
        probes.check_name(name)


def test_names_that_the_policy_refuses() -> None:
    probes.check_name("defects-2024.v1")
    with pytest.raises(RefusedByPolicy):
        probes.check_name("face-recognition")


# -- classes in another order --------------------------------------------------------------------


def test_classes_in_another_order_change_no_answer(store: Store, folder: Path) -> None:
    """Not of ``classify``, of ``--class``, of ``evaluate``, or of an index that takes the cache."""
    images = [f"{name}/{name}{n}.png" for name in NAMES for n in (0, 2)]
    files = [ImageFile(os.fsencode(name), 1, 1) for name in images]
    vectors = [unit(os.path.dirname(name).encode()) for name in images]
    with store.batch():
        store.add(
            EmbeddedImage(file, file.path[:20], 16, 16, None, vector)
            for file, vector in zip(files, vectors, strict=True)
        )

    def answers() -> tuple[object, ...]:
        known = Collection(store)
        ids = store.ids()
        ranked = classes_of(Labels(), store, store.spec, ColourEncoder).rank(
            store.vectors(ids.tolist()), 1
        )
        of_class = {
            name: known.restricted(Filter(of_class=class_index([known], name))).ids
            for name in NAMES
        }
        report = run(store, folder).report
        assert isinstance(report, ClassificationReport)
        recalls = {result.name: result.recall for result in report.per_class}
        confusions = [(one.actual, one.predicted) for one in report.confusions]
        first = [names[0].name for names in ranked]
        return first, known.nearest_classes(ids.tolist()), of_class, recalls, confusions

    collection.calibrate(store, ColourEncoder)
    before = answers()
    assert before[0] == [os.path.dirname(name) for name in images]
    for turned in ("other order", "first order again"):
        domain = Collection(store).domain
        collection.pin(store, dataclasses.replace(domain, classes=domain.classes[::-1]))
        collection.calibrate(store, ColourEncoder)
        assert answers() == before, turned
        assert Collection(store).tested == "tested"
