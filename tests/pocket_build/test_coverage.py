"""Which classes a text speaks of, on a WordNet of a dozen synsets."""

import pytest

from pocket_build.coverage import MODIFIER, SHARE_UP, Coverage, singulars
from pocket_build.wordnet import ADJECTIVE, ANIMAL, ARTIFACT, NOUN, PERSON, VERB, Synset, WordNet

CLASSES = ["robin", "toy parrot", "hen bird", "bottle", "jug"]
KNOWN = {0: 3, 1: 4, 3: 8, 4: 9}  # class -> synset; "hen bird" has none


def tiny_wordnet() -> WordNet:
    rows = [
        (1, ANIMAL, "animal", ()),
        (2, ANIMAL, "bird", (1,)),
        (3, ANIMAL, "robin", (2,)),
        (4, ANIMAL, "parrot", (2,)),
        (5, ANIMAL, "English robin", (3,)),
        (6, ANIMAL, "dog", (1,)),
        (7, ARTIFACT, "container", ()),
        (8, ARTIFACT, "bottle", (7,)),
        (9, ARTIFACT, "jug", (7,)),
        (10, PERSON, "bird", ()),
        (11, ANIMAL, "play", (2,)),
        (12, ARTIFACT, "house", ()),
        (13, ARTIFACT, "trash can", (7,)),
    ]
    wordnet = WordNet(
        synsets={NOUN: {n: Synset(n, kind, (word,), "", (), up) for n, kind, word, up in rows}},
        senses={pos: {} for pos in (NOUN, VERB, ADJECTIVE)},
        counts={pos: {} for pos in (NOUN, VERB, ADJECTIVE)},
    )
    for n, _, word, _ in rows:
        senses = wordnet.senses[NOUN]
        senses[word.lower()] = (*senses.get(word.lower(), ()), n)
    wordnet.counts[NOUN] = {"bird": (7, 0), "play": (1,)}
    wordnet.counts[VERB] = {"play": (70,)}
    return wordnet


@pytest.fixture
def coverage() -> Coverage:
    wordnet = tiny_wordnet()
    synsets = wordnet.synsets[NOUN]
    return Coverage.of(
        wordnet, CLASSES, {0: synsets[3], 1: synsets[4], 3: synsets[8], 4: synsets[9]}
    )


def test_a_word_covers_the_classes_below_it(coverage: Coverage) -> None:
    (meaning,) = coverage.meanings("container")
    assert meaning.classes == (3, 4)
    assert meaning.share == pytest.approx(2 / 3)


def test_a_class_without_a_synset_lies_below_the_end_of_its_name(coverage: Coverage) -> None:
    assert coverage.meanings("bird")[0].classes == (0, 1, 2)


def test_a_person_has_no_classes_by_its_neighbors(coverage: Coverage) -> None:
    assert [meaning.classes for meaning in coverage.meanings("bird")] == [(0, 1, 2)]


def test_a_word_below_a_class_takes_what_is_just_above_it(coverage: Coverage) -> None:
    (meaning,) = coverage.meanings("english robin")
    assert (meaning.classes, meaning.share) == ((0,), SHARE_UP)


def test_a_class_stands_for_itself(coverage: Coverage) -> None:
    assert coverage.meanings("jug")[0].share == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a photo of a bird", [("bird", 1.0)]),
        ("two birds", [("bird", 1.0)]),
        ("a bird and a dog", [("bird", 1.0), ("dog", 1.0)]),
        ("a bird on a bottle", [("bird", 1.0), ("bottle", 0.5)]),
        ("a dog plays with a jug", [("dog", 1.0), ("jug", 0.5)]),
        ("the play of a dog", [("play", 1.0), ("dog", 1.0)]),
        ("a dog house", [("dog", MODIFIER), ("house", 1.0)]),
        ("an English robin", [("english robin", 1.0)]),
        ("toy parrots", [("toy parrot", 1.0)]),
        ("the trash can", [("trash can", 1.0)]),
        ("something else", []),
    ],
)
def test_nouns(coverage: Coverage, text: str, expected: list[tuple[str, float]]) -> None:
    assert [(noun.phrase, noun.weight) for noun in coverage.nouns(text)] == expected


def test_broad_words_are_no_classes(coverage: Coverage) -> None:
    assert coverage.broad_words() == ["animal", "bird", "container"]


@pytest.mark.parametrize(
    ("plural", "singular"),
    [("dogs", "dog"), ("dishes", "dish"), ("puppies", "puppy"), ("firemen", "fireman")],
)
def test_singulars(plural: str, singular: str) -> None:
    assert singular in singulars(plural)


def test_nothing_is_the_singular_of_glass() -> None:
    assert "glas" not in singulars("glass")
