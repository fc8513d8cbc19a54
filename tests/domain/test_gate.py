"""The gate: words first, then embeddings, and refusals that are rare where they would be wrong."""

import numpy as np
import pytest
from small_domain import WordEncoder

from clipsearch.domain import gate as gate_module
from clipsearch.domain.gate import Gate
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.errors import OutOfDomain

ANIMALS = ["fur", "tail", "paw", "whiskers", "snout", "claws", "hooves", "mane", "stripes", "horn"]
OFFICE = ["invoice", "budget", "meeting", "tax", "report", "audit", "deadline", "contract", "pay"]


def phrases(words: list[str], n: int, seed: int) -> tuple[str, ...]:
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        found[" ".join(rng.choice(words, 4, replace=False))] = None
    return tuple(found)


def animals(n_in: int = 120, n_out: int = 80) -> Domain:
    return Domain(
        name="animals",
        description="",
        language="en",
        templates=("a photo of a {}",),
        classes=(
            DomainClass("cat", ("kitten",), ("fur whiskers paw claws",)),
            DomainClass("horse", (), ("mane hooves tail",)),
            DomainClass("zebra", (), ("stripes mane tail",)),
        ),
        in_domain=phrases(ANIMALS, n_in, 0),
        out_of_domain=phrases(OFFICE, n_out, 1),
    )


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate.build(animals(), WordEncoder())


def judge(gate: Gate, query: str) -> gate_module.Verdict:
    return gate.judge(query, WordEncoder().encode_texts([query])[0])


def test_words_settle_it(gate: Gate) -> None:
    verdict = judge(gate, "budget report about kittens")
    assert verdict.inside
    assert verdict.named == ("cat",)
    assert verdict.score is None
    assert gate.named("two zebras and a horse") == ("zebra", "horse")


def test_meaning_settles_the_rest(gate: Gate) -> None:
    assert judge(gate, "whiskers claws paw tail").inside
    verdict = judge(gate, "contract deadline pay")
    assert not verdict.inside
    assert verdict.named == ()
    assert verdict.score is not None
    assert verdict.score < gate.threshold


def test_a_refusal_names_the_nearest_classes(gate: Gate) -> None:
    query = "audit of the mane budget"
    vector = WordEncoder().encode_texts(["audit of the mane budget invoice report tax"])[0]
    with pytest.raises(OutOfDomain, match=r"audit of the mane budget.*animals.*(horse|zebra)") as e:
        gate.check(query, vector)
    assert "--allow-out-of-domain" in e.value.hint
    assert gate.check("cat", vector).inside


def test_error_rates(gate: Gate) -> None:
    errors = gate.errors()
    assert (errors.in_domain, errors.out_of_domain) == (120, 80)
    assert errors.settled_by_words == 0
    assert errors.refused is not None
    assert errors.admitted is not None
    assert errors.refused.value <= 0.05
    assert errors.admitted.value <= 0.05
    assert errors.refused_without_words == errors.refused


def test_words_count_in_the_error_rates() -> None:
    domain = animals()
    named = Domain(
        **{
            **vars(domain),
            "in_domain": ("invoice of a cat", *domain.in_domain),
            "out_of_domain": ("tax on horses", *domain.out_of_domain),
        }
    )
    errors = Gate.build(named, WordEncoder()).errors()
    assert errors.settled_by_words == 1
    assert errors.admitted is not None
    assert errors.admitted.value >= 1 / 81
    assert errors.refused_without_words is not None
    assert errors.refused_without_words.n == 120


def test_the_threshold_is_the_conformal_quantile() -> None:
    scores = np.random.default_rng(0).normal(size=149)
    assert gate_module._threshold(scores) == np.sort(scores)[2]  # floor(0.02 * 150) = 3
    assert gate_module._threshold(scores[:49]) == scores[:49].min()
    few = gate_module._threshold(scores[:30])
    assert few <= scores[:30].min()
    assert np.isfinite(few)
    assert gate_module._threshold(scores[:9]) == -np.inf
    assert gate_module._threshold(scores[:0]) == -np.inf


@pytest.mark.slow
@pytest.mark.parametrize("n", [49, 100, 170, 500])
def test_a_fresh_query_is_refused_in_at_most_2_percent(n: int) -> None:
    rng = np.random.default_rng(0)
    below = [
        np.mean(rng.gamma(2, size=400) < gate_module._threshold(rng.gamma(2, size=n)))
        for _ in range(2000)
    ]
    assert np.mean(below) <= 0.0205


def test_few_examples_leave_the_gate_open() -> None:
    gate = Gate.build(animals(n_in=5, n_out=3), WordEncoder())
    assert judge(gate, "contract deadline pay").inside
    assert gate.errors().refused is not None


@pytest.mark.parametrize(("n_in", "n_out"), [(0, 0), (0, 10), (60, 0), (1, 1)])
def test_any_number_of_examples_will_do(n_in: int, n_out: int) -> None:
    gate = Gate.build(animals(n_in, n_out), WordEncoder())
    judge(gate, "contract deadline pay")
    errors = gate.errors()
    assert (errors.refused is None) == (n_in == 0)
    assert (errors.admitted is None) == (n_out == 0)


def test_is_kept_and_read_back(gate: Gate) -> None:
    again = Gate.from_bytes(animals(), gate.to_bytes())
    assert again.threshold == pytest.approx(gate.threshold, abs=1e-3)
    for query in ("whiskers claws paw tail", "contract deadline pay", "kitten"):
        assert judge(again, query).inside == judge(gate, query).inside


def test_embeds_each_text_once() -> None:
    encoder = WordEncoder()
    domain = animals()
    Gate.build(domain, encoder)
    assert encoder.texts == 3 + len(domain.in_domain) + len(domain.out_of_domain)
