"""Mixtures: parts on one scale, whatever lies between texts and images."""

import numpy as np
import pytest
from fakes import DIM, clustered, texts_for, unit
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.domain.scale import Scale
from clipsearch.errors import UsageError
from clipsearch.records import Vectors
from clipsearch.search.fusion import Ingredient, mix
from clipsearch.vectors import l2_normalise

IMAGES = clustered(600)
TEXTS = texts_for(80)


def scale_of(images: Vectors, texts: Vectors = TEXTS) -> Scale:
    return Scale.measure([images[:100].astype(np.float16), images[100:]], texts, images[:50])


SCALE = scale_of(IMAGES)


def text(seed: int, weight: float = 1.0) -> Ingredient:
    return Ingredient(texts_for(1, seed=seed)[0], "text", weight)


def image(row: int, weight: float = 1.0) -> Ingredient:
    return Ingredient(IMAGES[row], "image", weight)


def standard(part: Ingredient, images: Vectors = IMAGES, scale: Scale = SCALE) -> Vectors:
    """The standard scores of a part over the collection, as statistics has them."""
    scores = images @ (part.vector - scale.means[part.kind])
    return (scores - scores.mean()) / scores.std()


def test_the_moments_are_numpys() -> None:
    np.testing.assert_allclose(SCALE.covariance, np.cov(IMAGES.T, bias=True), atol=1e-4)
    np.testing.assert_allclose(SCALE.means["image"], IMAGES.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(SCALE.means["text"], TEXTS.mean(axis=0), atol=1e-6)
    spreads = ((TEXTS - TEXTS.mean(axis=0)) @ IMAGES.T).std(axis=1)
    assert SCALE.spreads["text"] == pytest.approx(spreads.mean(), rel=0.01)
    assert SCALE.images == 600


@pytest.mark.parametrize("part", [text(3), text(3, 7.5), image(5)])
def test_one_part_ranks_as_it_does_from_the_mean_of_its_kind(part: Ingredient) -> None:
    mixture = mix([part], SCALE)
    assert mixture.kind == part.kind
    centred = part.vector - SCALE.means[part.kind]
    np.testing.assert_allclose(mixture.vector, centred, atol=1e-5)
    mean = SCALE.means["image"]
    assert float(mean @ mixture.vector) + mixture.offset == pytest.approx(
        float(SCALE.means[part.kind] @ mean), abs=1e-5
    )


@given(
    st.integers(0, 99),
    st.integers(0, 599),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
    st.sampled_from([1, -1]),
)
def test_a_mixture_ranks_by_the_weighted_sum_of_standard_scores(
    seed: int, row: int, a: float, b: float, sign: int
) -> None:
    parts = [text(seed, a), image(row, sign * b)]
    mixture = mix(parts, SCALE)
    assert mixture.kind == "text"
    expected = sum(part.weight * standard(part) for part in parts)
    assert np.corrcoef(IMAGES @ mixture.vector, expected)[0, 1] > 0.9999


def test_equal_weights_count_equally() -> None:
    scores = IMAGES @ mix([text(4), image(9)], SCALE).vector
    with_text = np.corrcoef(scores, standard(text(4)))[0, 1]
    with_image = np.corrcoef(scores, standard(image(9)))[0, 1]
    assert with_text == pytest.approx(with_image, abs=0.01)
    plain = IMAGES @ (text(4).vector + image(9).vector)
    assert np.corrcoef(plain, standard(text(4)))[0, 1] < with_text - 0.02


def test_what_lies_between_texts_and_pictures_changes_nothing() -> None:
    """The modality gap: all texts moved the same way, and shrunk around their mean."""
    gap = 3 * unit(77)
    moved = 0.3 * TEXTS + gap
    scale = scale_of(IMAGES, moved.astype(np.float32))
    part = text(4)
    far = Ingredient((0.3 * part.vector + gap).astype(np.float32), "text", 1.0)
    ours = [IMAGES @ mix([p, image(9)], s).vector for p, s in ((part, SCALE), (far, scale))]
    assert np.corrcoef(*ours)[0, 1] > 0.9999
    # Plain addition follows the gap, and hardly the text.
    assert np.corrcoef(IMAGES @ (far.vector + IMAGES[9]), ours[0])[0, 1] < 0.9


def test_scores_stay_on_the_scale_of_such_a_query() -> None:
    mixture = mix([text(4), text(5), image(9)], SCALE)
    scores = IMAGES @ mixture.vector + mixture.offset
    expected = float(IMAGES.mean(axis=0) @ SCALE.means["text"])
    assert scores.mean() == pytest.approx(expected, abs=1e-3)
    spreads = [(IMAGES @ part.vector).std() for part in (text(4), text(5))]
    assert min(spreads) / 2 < scores.std() < max(spreads) * 2


def test_pictures_alone_are_on_the_scale_of_pictures_and_probes_on_none() -> None:
    assert mix([image(1), image(2)], SCALE).kind == "image"
    assert mix([image(1), text(2, -1.0)], SCALE).kind == "image"
    probe = Ingredient(unit(3), "probe", 1.0)
    assert mix([probe, image(2)], SCALE).kind == "image"
    mixture = mix([probe, text(2, -1.0)], SCALE)
    assert mixture.kind == "probe"
    assert np.linalg.norm(mixture.vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("part", [text(4), image(9), Ingredient(unit(3), "probe", 1.0)])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_parts_that_cancel_each_other_out_are_no_query(part: Ingredient, weight: float) -> None:
    away = Ingredient(part.vector, part.kind, -0.5 * (2 * weight))
    with pytest.raises(UsageError, match="cancel"):
        mix([Ingredient(part.vector, part.kind, weight), away], SCALE)


@pytest.mark.parametrize("count", [1, 2])
def test_a_collection_that_does_not_vary_has_a_scale(count: int) -> None:
    scale = scale_of(np.repeat(IMAGES[:1], count, axis=0))
    assert np.isfinite(mix([text(1), image(2)], scale).vector).all()


def test_collections_are_pooled_as_if_they_were_one() -> None:
    parts = [scale_of(IMAGES[:200]), scale_of(IMAGES[200:])]
    pooled = Scale.pooled(parts)
    np.testing.assert_allclose(pooled.covariance, SCALE.covariance, atol=1e-4)
    np.testing.assert_allclose(pooled.means["image"], SCALE.means["image"], atol=1e-3)
    assert pooled.images == 600
    assert Scale.pooled(parts[:1]) is parts[0]


def test_it_is_kept_as_bytes() -> None:
    again = Scale.from_bytes(SCALE.to_bytes())
    for part in ([text(1), image(2)], [image(3), image(4, -0.5)]):
        np.testing.assert_array_equal(mix(part, again)[0], mix(part, SCALE)[0])
    assert l2_normalise(mix([text(1)], again)[0]).shape == (DIM,)
