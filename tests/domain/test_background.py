"""The bank of background prompts."""

from clipsearch.domain import background, policy, taxonomy
from clipsearch.domain.taxonomy import Domain


def test_the_bank_is_large_and_without_doubles() -> None:
    bank = background.prompts()
    assert len(bank) >= 400
    assert len({taxonomy.folded(prompt) for prompt in bank}) == len(bank)
    assert all(prompt == prompt.strip() and prompt.isprintable() for prompt in bank)


def test_the_halves_share_nothing_and_lack_nothing() -> None:
    first, second = background.prompts("first"), background.prompts("second")
    assert abs(len(first) - len(second)) <= 1
    assert {*first, *second} == {*background.prompts()}
    assert not {*first} & {*second}


def test_no_prompt_is_one_that_would_be_refused_or_remarked_on() -> None:
    for prompt in background.prompts():
        assert policy.refusal(prompt) is None, prompt
        assert policy.language_note(prompt) is None, prompt


def test_none_names_an_everyday_class() -> None:
    assert background.unrelated(taxonomy.load("everyday")) == background.prompts()


def test_what_names_a_class_of_the_domain_is_left_out(small: Domain) -> None:
    related = taxonomy.Domain(
        name="x",
        description="",
        language="en",
        templates=("{}",),
        classes=(taxonomy.DomainClass("platypus"), taxonomy.DomainClass("X-ray")),
    )
    left = background.unrelated(related)
    assert 0 < len(background.prompts()) - len(left) < 20
    assert not any("X-ray" in prompt for prompt in left)
    assert {*background.unrelated(related, "first")} < {*left}


def test_no_example_of_the_everyday_domain_is_in_it() -> None:
    domain = taxonomy.load("everyday")
    assert not {*background.prompts()} & {*domain.in_domain, *domain.out_of_domain}
