"""What is said of an answer, in words."""

from clipsearch.search.explain import counted


def test_matches_are_counted_up_to_ten_thousand() -> None:
    assert (counted(48), counted(1_234), counted(10_000)) == ("48", "1,234", "at least 10,000")
