"""Where the targets lie, on four classes in eight dimensions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pocket_build.aims import VISIBLE_OTHER, Aims
from pocket_build.coverage import Coverage
from pocket_build.test_coverage import CLASSES, KNOWN, tiny_wordnet
from pocket_build.wordnet import NOUN

DIMENSIONS, SPARE = 8, 3


@pytest.fixture
def class_vectors() -> Tensor:
    noise = torch.randn(len(CLASSES), DIMENSIONS, generator=torch.Generator().manual_seed(0))
    return F.normalize(noise + 0.5, dim=-1)


@pytest.fixture
def aims(class_vectors: Tensor) -> Aims:
    wordnet = tiny_wordnet()
    synsets = wordnet.synsets[NOUN]
    known = {n: synsets[m] for n, m in KNOWN.items()}
    return Aims(Coverage.of(wordnet, CLASSES, known), class_vectors, SPARE)


def test_targets_are_unit_vectors(aims: Aims) -> None:
    vectors = F.normalize(torch.randn(3, DIMENSIONS), dim=-1)
    targets = aims.targets(["a bird", "a dog", "nothing"], vectors, {})
    assert targets.shape == (3, DIMENSIONS + SPARE)
    torch.testing.assert_close(targets.norm(dim=-1), torch.ones(3))


def test_a_broad_word_scores_its_classes_above_all_others(
    aims: Aims, class_vectors: Tensor
) -> None:
    teacher = F.normalize(class_vectors[:1] + class_vectors[3:4], dim=-1)
    target = aims.targets(["a container"], teacher, {})[0, :DIMENSIONS]
    before, after = (class_vectors @ vector for vector in (teacher[0], target))
    assert after[3:].min() > before[3:].min()
    assert after[3:].mean() - after[:3].mean() > before[3:].mean() - before[:3].mean()


def test_two_classes_in_one_text_both_score(aims: Aims, class_vectors: Tensor) -> None:
    teacher = F.normalize(class_vectors[[0]] + class_vectors[[4]], dim=-1)
    scores = class_vectors @ aims.targets(["a robin and a jug"], teacher, {})[0, :DIMENSIONS]
    assert set(scores.topk(2).indices.tolist()) == {0, 4}


def test_what_no_class_shows_scores_lower(aims: Aims) -> None:
    teacher = F.normalize(torch.ones(1, DIMENSIONS), dim=-1)
    target = aims.targets(["a thought"], teacher, {})[0]
    assert target[:DIMENSIONS].norm().item() == pytest.approx(VISIBLE_OTHER)


def test_a_known_meaning_is_not_read_from_the_text(aims: Aims, class_vectors: Tensor) -> None:
    teacher = F.normalize(class_vectors[[0]], dim=-1)
    known = {0: tuple(aims.coverage.meaning(9))}
    scores = class_vectors @ aims.targets(["a robin"], teacher, known)[0, :DIMENSIONS]
    assert scores.argmax() == 4
