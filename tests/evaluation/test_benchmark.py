"""A model is measured on CLIP_benchmark's sets as CLIP_benchmark measures it."""

import io
import os
import runpy
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import picture_bytes, write_benchmark, write_tar
from fakes import DecodeHere, FakeEncoder, fake_spec, unit

from clipsearch.errors import BadLabels, RefusedByPolicy, TooFewExamples
from clipsearch.evaluation import clip_benchmark
from clipsearch.evaluation.benchmark import Benchmarked, measure
from clipsearch.evaluation.clip_benchmark import Benchmark
from clipsearch.images.decode import decode
from clipsearch.indexing import embed
from clipsearch.models.load import Encoders
from clipsearch.records import Pixels, Vectors
from clipsearch.vectors import l2_normalise

NAMES = ("red", "green", "blue", "Gelb", "blue", "no such thing")
TEMPLATES = ("a photo of a {c}.", "{c}", "the {c} one")
LABELS = [int(c) for c in np.random.default_rng(0).integers(0, 5, 20)]
CAPTIONS = [[f"image {n}", *[f"another text of {n}"] * (n % 3)] for n in range(15)]
SEVERAL = np.random.default_rng(1).integers(0, 2, (12, len(NAMES)))
SEVERAL[:, -1] = 0


class Meaning(FakeEncoder):
    """Images and texts have something in common, and otherwise are hashes."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        return l2_normalise(super().encode_images(pixels) + 0.5 * unit(b"all"))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return l2_normalise(super().encode_texts(texts) + 0.5 * unit(b"all"))


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values.astype(np.uint8))
    return file.getvalue()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set of each kind. Not to be changed."""
    root = tmp_path_factory.mktemp("sets")
    texts = {
        "classnames": "\n".join(NAMES),
        "zeroshot_classification_templates": "\n".join(TEMPLATES),
    }
    said = {
        "classification": [("cls", b"%d\n" % label) for label in LABELS],
        "multilabel": [("npy", npy(own)) for own in SEVERAL],
        "retrieval": [("txt", "\n".join(own).encode()) for own in CAPTIONS],
    }
    for kind, own in said.items():
        write_benchmark(root / kind, own, dataset_type=kind, **texts)
    return {kind: root / kind for kind in said}


def measured(folder: Path, **options: Any) -> Benchmarked:
    encoder = Meaning()
    encoders = Encoders(lambda: encoder, lambda: encoder)
    return measure(clip_benchmark.read(folder), fake_spec(), encoders, **options)


def embedded(tmp_path: Path, count: int, first: int = 0) -> Vectors:
    """What the images of a set are embedded as, ``(count, dim)``: from files of their own."""
    pixels = []
    for seed in range(first, first + count):
        (tmp_path / "one.webp").write_bytes(picture_bytes(tmp_path, seed, ".webp"))
        source = os.fsencode(tmp_path / "one.webp")
        pixels.append(decode(source, fake_spec().preprocessing).pixels)
    return Meaning().encode_images(np.stack(pixels))


def prompted() -> Vectors:
    """CLIP_benchmark's ``zero_shot_classifier``, transposed: ``(classes, dim)``."""
    rows = []
    for name in NAMES:
        texts = Meaning().encode_texts([template.format(c=name) for template in TEMPLATES])
        mean = texts.mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """CLIP_benchmark's ``average_precision_per_class``, of one class."""
    ranked = truth[np.argsort(-scores, kind="stable")]
    precision = ranked.cumsum() / np.arange(1, len(ranked) + 1)
    return float(precision[ranked == 1].sum() / max(ranked.sum(), 1))


def test_classification_by_the_sets_own_prompts(sets: dict[str, Path], tmp_path: Path) -> None:
    found = measured(sets["classification"])
    scores = embedded(tmp_path, 20) @ prompted().T
    best = np.argsort(-scores, axis=1, kind="stable")
    labels = np.array(LABELS)
    recalls = [(best[labels == c, 0] == c).mean() for c in range(5)]
    assert found.figures() == pytest.approx(
        {
            "acc1": (best[:, 0] == labels).mean(),
            "acc5": (best[:, :5] == labels[:, np.newaxis]).any(axis=1).mean(),
            "mean_per_class_recall": np.mean(recalls),
        },
        abs=1e-6,
    )
    assert 0 < found.figures()["acc1"] < 1
    assert found.notes()[0].startswith("1 of 6 classes have no image")


def test_a_class_without_a_picture_counts_as_0_in_the_mean_average_precision(
    sets: dict[str, Path], tmp_path: Path
) -> None:
    scores = embedded(tmp_path, 12) @ prompted().T
    each = [average_precision(scores[:, c], SEVERAL[:, c]) for c in range(len(NAMES))]
    assert each[-1] == 0
    found = measured(sets["multilabel"])
    assert found.figures() == pytest.approx({"mean_average_precision": np.mean(each)}, abs=1e-6)


def test_retrieval_by_captions(sets: dict[str, Path], tmp_path: Path) -> None:
    owner = np.repeat(np.arange(15), [len(own) for own in CAPTIONS])
    texts = Meaning().encode_texts([caption for own in CAPTIONS for caption in own])
    scores = texts @ embedded(tmp_path, 15).T
    positive = owner[:, np.newaxis] == np.arange(15)
    expected = {}
    for k in (1, 5, 10):
        for name, values, right in (("image", scores, positive), ("text", scores.T, positive.T)):
            top = np.argsort(-values, axis=1, kind="stable")[:, :k]
            hits = np.take_along_axis(right, top, axis=1).any(axis=1)
            expected[f"{name}_retrieval_recall@{k}"] = hits.mean()
    assert measured(sets["retrieval"]).figures() == pytest.approx(expected, abs=1e-6)


def test_fewer_than_five_classes_have_no_acc5(tmp_path: Path) -> None:
    texts = {"classnames": "a\nb", "zeroshot_classification_templates": "{c}"}
    folder = write_benchmark(tmp_path / "wds", [("cls", b"0"), ("cls", b"1")], **texts)
    assert measured(folder).figures()["acc5"] is None


def test_pictures_that_cannot_be_decoded_are_named_and_do_not_count(
    sets: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "wds"
    write_benchmark(folder, [("txt", b"one\ntwo"), ("txt", b"three")], archives=1)
    whole = picture_bytes(tmp_path, 0)
    members = [("a.jpg", whole), ("a.txt", b"one\ntwo"), ("b.jpg", b"broken"), ("b.txt", b"three")]
    write_tar(folder / "test/0.tar", members)
    found = measured(folder)
    assert (found.report.images, found.pictures) == (1, 2)
    (failed,) = found.skipped
    assert failed[0] == b"test/0.tar/b.jpg"
    assert any(note.startswith("1 images could not be decoded") for note in found.notes())
    write_tar(folder / "test/0.tar", members[2:])
    with pytest.raises(TooFewExamples, match="none of the 1 images"):
        measured(folder)


def test_the_policy_is_for_classes_and_not_for_captions(tmp_path: Path) -> None:
    said = [("txt", b"several photos of the same man on a skateboard"), ("txt", b"a cat")]
    assert measured(write_benchmark(tmp_path / "a", said)).report.images == 2
    texts = {"classnames": "a\nidentify this man", "zeroshot_classification_templates": "{c}"}
    folder = write_benchmark(tmp_path / "b", [("cls", b"0")], archives=1, **texts)
    with pytest.raises(RefusedByPolicy):
        measured(folder)


# -- the linear probe ----------------------------------------------------------------------------


@pytest.fixture
def split(sets: dict[str, Path], tmp_path: Path) -> Path:
    """A set with a train split whose first image is one of the test split's too."""
    folder = tmp_path / "wds"
    texts = {"classnames": "a\nb\nc", "zeroshot_classification_templates": "{c}"}
    write_benchmark(folder, [("cls", b"%d" % (n % 3)) for n in range(12)], **texts)
    said = [("cls", b"%d" % (n % 3)) for n in range(24)]
    return write_benchmark(folder, said, split="train", first=11, archives=1)


def test_the_linear_probe_is_scikit_learns(split: Path, tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    found = measured(split, linear_probe=True)
    assert found.probe is not None
    assert (found.probe.images, found.probe.shared) == (24, 1)
    theirs = linear_model.LogisticRegression(C=1 / found.probe.l2, tol=1e-9, max_iter=10_000)
    theirs.fit(embedded(tmp_path, 24, first=11).astype(float), np.arange(24) % 3)
    given = theirs.predict(embedded(tmp_path, 12).astype(float))
    assert found.probe.report.predicted == tuple(given)
    assert found.figures()["lp_acc1"] == pytest.approx((given == np.arange(12) % 3).mean())
    assert found.figures()["lp_acc5"] is None
    assert found.figures().keys() >= measured(split).figures().keys()
    assert any("1 images of the test split are also in the train" in note for note in found.notes())


def test_a_linear_probe_needs_one_class_a_picture(sets: dict[str, Path], split: Path) -> None:
    for kind in ("multilabel", "retrieval"):
        with pytest.raises(BadLabels, match=f"is a set for {kind}"):
            measured(sets[kind], linear_probe=True)
    with pytest.raises(BadLabels, match="there are no archives"):
        measured(sets["classification"], linear_probe=True)
    write_benchmark(split, [("cls", b"0")] * 3, split="train", archives=1)
    with pytest.raises(TooFewExamples, match="has images of only one"):
        measured(split, linear_probe=True)


# -- what was published --------------------------------------------------------------------------


DEFAULT = replace(fake_spec(name="ViT-B-16"), pretrained="laion2b_s34b_b88k")


def test_imagenet_is_known_by_its_classes(sets: dict[str, Path]) -> None:
    package = find_spec("open_clip")  # without torch, which would be loaded with the package
    assert package is not None
    assert package.origin is not None
    names = runpy.run_path(str(Path(package.origin).with_name("zero_shot_metadata.py")))
    classes = tuple(names["IMAGENET_CLASSNAMES"])
    found = measured(sets["classification"])
    assert replace(found, model=DEFAULT).published() == {}
    benchmark = Benchmark(Path("x"), "classification", classes, ("{c}",))
    whole = replace(found, model=DEFAULT, benchmark=benchmark, pictures=50_000)
    assert whole.published() == {"acc1": "ImageNet-1k 70.2%"}
    assert replace(whole, pictures=10_000).published() == {
        "acc1": "ImageNet-1k 70.2%, other images"
    }
    assert replace(whole, model=fake_spec()).published() == {}


def test_sets_of_captions_are_not_told_apart(sets: dict[str, Path]) -> None:
    found = replace(measured(sets["retrieval"]), model=DEFAULT)
    assert found.published().keys() == found.figures().keys()
    assert found.published()["image_retrieval_recall@5"] == "Flickr30k 90.4%, COCO 67.7%"


# -- CLIP_benchmark itself, where it is installed -------------------------------------------------


class TorchModel:
    """The encoder as CLIP_benchmark calls a model: a batch is pixels, or a list of texts."""

    def __init__(self, torch: Any) -> None:
        self._tensor = torch.tensor

    def encode_image(self, batch: Any) -> Any:
        return self._tensor(Meaning().encode_images(batch.numpy()))

    def encode_text(self, texts: "Texts") -> Any:
        return self._tensor(Meaning().encode_texts(texts))


class Texts(list[str]):
    """What the tokenizer gives."""

    def to(self, device: str) -> "Texts":
        return self


class Loader(list[Any]):
    """Batches, and the data set that they are of."""

    dataset: Any


@pytest.mark.process  # torch starts one
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["classification", "multilabel", "retrieval"])
def test_clip_benchmarks_own_reader_and_functions_agree(
    sets: dict[str, Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("webdataset")
    builder = pytest.importorskip("clip_benchmark.datasets.builder")
    import torch
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    def accuracy(output: Any, target: Any, topk: tuple[int, ...]) -> list[float]:
        """Its own but for ``float(array)``, which numpy no longer does."""
        right = output.topk(max(topk), 1, True, True)[1].t().eq(target.view(1, -1))
        return [right[:k].float().sum().item() / len(target) for k in topk]

    def transform(image: Any) -> Any:
        image.save(tmp_path / "one.png")
        decoded = decode(os.fsencode(tmp_path / "one.png"), fake_spec().preprocessing)
        return torch.tensor(decoded.pixels)

    monkeypatch.setattr(zeroshot_classification, "accuracy", accuracy)
    dataset = builder.build_wds_dataset("x", transform, "test", str(sets[kind]))
    images, said = zip(*dataset, strict=True)
    labels = said if kind == "retrieval" else torch.tensor(np.array(said))
    batches, model = Loader([(torch.stack(images), labels)]), TorchModel(torch)
    batches.dataset = dataset
    if kind == "retrieval":
        options = {"amp": False, "recall_k_list": [1, 5, 10]}
        theirs = zeroshot_retrieval.evaluate(model, batches, Texts, "cpu", **options)
    else:
        prompts = (dataset.classes, dataset.templates)
        theirs = zeroshot_classification.evaluate(model, batches, Texts, *prompts, "cpu", amp=False)
    assert measured(sets[kind]).figures() == pytest.approx(theirs, abs=1e-6)
