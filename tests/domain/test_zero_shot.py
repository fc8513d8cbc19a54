"""Class embeddings, probabilities and rankings, against the definitions written out."""

import numpy as np
import pytest
from small_domain import DIM, WordEncoder

from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.zero_shot import (
    LOGIT_SCALE,
    class_embeddings,
    classify,
    encode_all,
    fit_logit_scale,
    probabilities,
)
from clipsearch.vectors import l2_normalise


def test_class_embedding_is_the_normalised_mean_of_normalised_prompts(
    small: Domain, encoder: WordEncoder
) -> None:
    got = class_embeddings(small, encoder)
    assert got.shape == (3, DIM)
    assert got.dtype == np.float32
    for index in range(3):
        each = [encoder.encode_texts([prompt])[0].astype(float) for prompt in small.prompts(index)]
        mean = np.mean([vector / np.linalg.norm(vector) for vector in each], axis=0)
        np.testing.assert_allclose(got[index], mean / np.linalg.norm(mean), atol=1e-6)


def test_any_number_of_texts_is_encoded_in_order(encoder: WordEncoder) -> None:
    texts = [f"text {n}" for n in range(600)]
    np.testing.assert_array_equal(
        encode_all(encoder, texts)[[0, 300, 599]],
        l2_normalise(encoder.encode_texts([texts[0], texts[300], texts[599]])),
    )


def test_probabilities_are_the_softmax() -> None:
    rng = np.random.default_rng(0)
    queries, keys = (l2_normalise(rng.normal(size=(n, 8))) for n in (4, 6))
    got = probabilities(queries, keys, 20.0)
    raw = np.exp(20.0 * (queries.astype(float) @ keys.T.astype(float)))
    np.testing.assert_allclose(got, raw / raw.sum(axis=1, keepdims=True), rtol=1e-5)
    assert np.all(np.isfinite(probabilities(queries, keys, 1e4)))


def test_classify_gives_the_best_k_in_order() -> None:
    classes = l2_normalise(np.eye(4))
    images = l2_normalise([[4, 3, 2, 1], [0, 0, 1, 1]])
    first, second = classify(images, classes, "abcd", k=3, logit_scale=10)
    assert [ranked.name for ranked in first] == ["a", "b", "c"]
    assert [ranked.name for ranked in second] == ["c", "d", "a"]  # equal ones in class order
    assert first[0].probability > first[1].probability
    assert second[0].probability == pytest.approx(second[1].probability)
    assert first[0].similarity == pytest.approx(4 / np.sqrt(30))
    (everything, _) = classify(images, classes, "abcd", k=99)
    assert sum(ranked.probability for ranked in everything) == pytest.approx(1)


def test_any_texts_can_be_ranked_for_a_picture(encoder: WordEncoder) -> None:
    texts = ["a red car", "two black cats", "a black cat asleep"]
    image = encoder.encode_texts(["black cat asleep"])
    (ranking,) = classify(image, encoder.encode_texts(texts), texts, k=3)
    assert [ranked.index for ranked in ranking] == [2, 1, 0]
    assert ranking[0].name == "a black cat asleep"
    assert sum(ranked.probability for ranked in ranking) == pytest.approx(1)


def test_the_logit_scale_is_that_by_which_labels_were_drawn() -> None:
    rng = np.random.default_rng(0)
    images, classes = (l2_normalise(rng.normal(size=(n, 16))) for n in (4000, 10))
    shares = probabilities(images, classes, 12.0)
    labels = [rng.choice(10, p=share) for share in shares]
    assert fit_logit_scale(images, classes, labels) == pytest.approx(12, rel=0.1)
    at_random = rng.integers(0, 10, 4000)
    assert fit_logit_scale(images, classes, at_random) < 2


def test_the_logit_scale_has_an_end_where_nothing_is_wrong() -> None:
    classes = np.eye(4, dtype=np.float32)
    assert fit_logit_scale(classes, classes, range(4)) == pytest.approx(LOGIT_SCALE, abs=0.02)
