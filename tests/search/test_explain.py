"""What is said of an answer, in words."""

from clipsearch.search.explain import counted, reached, weak
from clipsearch.search.judge import Judgment


def test_matches_are_counted_up_to_ten_thousand() -> None:
    assert (counted(48), counted(1_234), counted(10_000)) == ("48", "1,234", "at least 10,000")


def test_a_rate_says_what_it_is_a_share_of() -> None:
    assert reached(Judgment("weak", 0.31)) == "31.0% of unrelated queries score as high here"
    of_pictures = Judgment("weak", 0.525, compared_with="images")
    assert weak(of_pictures) == "weak match: 52.5% of unrelated images are as near here"
