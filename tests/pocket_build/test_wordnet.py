"""Reading WordNet's own files, on two lines of each kind."""

from pathlib import Path

import pytest

from pocket_build.wordnet import ADJECTIVE, ADVERB, NOUN, VERB, WordNet

DATA = """\
  1 a license line
00000100 05 n 01 animal 0 000 | a living thing; "animals move"
00000200 05 n 02 dog 0 domestic_dog 0 002 @ 00000100 n 0000 ~ 00000300 n 0000 | a pet (at home)
00000300 05 n 01 Rex 0 001 @i 00000200 n 0000 | the king of dogs
"""
INDEX = """\
  1 a license line
animal n 1 1 @ 1 0 00000100
dog n 2 1 @ 2 1 00000200 00000300
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    for pos in (NOUN, VERB, ADJECTIVE, ADVERB):
        (tmp_path / f"data.{pos}").write_text(DATA if pos == NOUN else "")
        (tmp_path / f"index.{pos}").write_text(INDEX if pos == NOUN else "")
    (tmp_path / "cntlist.rev").write_text("dog%1:05:00:: 1 42\nwoof%2:05:00:: 1 3\n")
    return WordNet.read(tmp_path)


def test_a_synset_is_read(wordnet: WordNet) -> None:
    dog = wordnet.synsets[NOUN][200]
    assert (dog.words, dog.definition, dog.hypernyms) == (("dog", "domestic dog"), "a pet", (100,))
    assert wordnet.synsets[NOUN][100].examples == ("animals move",)


def test_above_counts_steps(wordnet: WordNet) -> None:
    assert wordnet.above(300) == {300: 0, 200: 1, 100: 2}
    assert wordnet.above(300, steps=1) == {300: 0, 200: 1}


def test_counts_follow_the_senses(wordnet: WordNet) -> None:
    assert wordnet.counts[NOUN] == {"dog": (42, 0)}
    assert wordnet.first_sense("dog") is wordnet.synsets[NOUN][200]
