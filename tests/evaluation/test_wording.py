"""Words for the classes of a labelled set: renamed, described, left out, added."""

import dataclasses

import numpy as np
import pytest
from fakes import FakeEncoder

from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.domain.zero_shot import class_embeddings
from clipsearch.errors import RefusedByPolicy, UsageError
from clipsearch.evaluation.wording import AS_LABELED, Wording, text_embeddings

PARTS = Domain("parts", "", "en", ("a photo of a {}.",), (DomainClass("a1"), DomainClass("dent")))


def test_a_label_is_renamed_and_still_means_its_class() -> None:
    taxonomy = Wording.of(["A1=deep crack"], []).applied(PARTS)
    assert taxonomy.class_names == ("deep crack", "dent")
    assert taxonomy.find_class("a1") == taxonomy.find_class("Deep_Crack") == 0
    assert taxonomy.prompts(0) == ("a photo of a deep crack.",)


def test_a_class_is_described_by_either_of_its_names_and_one_is_added() -> None:
    text = "a long thin bright line on metal"
    for name in ("a1", "scratch"):
        wording = Wording.of(["a1=scratch"], [f"{name} = {text}", "hole=a dark disk"])
        taxonomy = wording.applied(PARTS)
        assert taxonomy.class_names == ("scratch", "dent", "hole")
        assert taxonomy.prompts(0) == (text,)
        assert taxonomy.prompts(2) == ("a dark disk",)


def test_a_class_without_words_stands_in_the_middle_of_the_others() -> None:
    encoder = FakeEncoder()
    domain = dataclasses.replace(PARTS, classes=(*PARTS.classes, DomainClass("hole")))
    wording = Wording.of([], ["A1="])
    words = text_embeddings(wording.applied(domain), wording, encoder)
    named = class_embeddings(domain, encoder)
    np.testing.assert_allclose(words[1:], named[1:], atol=1e-6)
    np.testing.assert_allclose(words[0], named[1:].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(text_embeddings(domain, AS_LABELED, encoder), named, atol=1e-6)
    with pytest.raises(UsageError, match="fewer than two classes"):
        text_embeddings(PARTS, wording, encoder)


@pytest.mark.parametrize(
    ("renames", "words", "message"),
    [
        (["a1"], [], "--rename 'a1' is not LABEL=NAME"),
        (["a1="], [], "'a1=' gives no name"),
        ([], ["=x"], "--words '=x' is not CLASS=TEXT"),
        ([], ["a1=x\ny"], "is not CLASS=TEXT"),
        ([], ["a1=x", "a1=y"], "names 'a1' twice"),
        (["dnet=x"], [], r"no label 'dnet' \(did you mean dent\?\)"),
        (["a1=Dent"], [], "two classes would be called 'Dent'"),
        ([], ["hole="], "'hole' has neither images nor words"),
    ],
)
def test_what_no_class_can_be_called(renames: list[str], words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Wording.of(renames, words).applied(PARTS)


@pytest.mark.parametrize(
    ("renames", "words"), [(["a1=identify this man"], []), ([], ["a1=identify this man"])]
)
def test_words_that_the_policy_refuses(renames: list[str], words: list[str]) -> None:
    with pytest.raises(RefusedByPolicy):
        Wording.of(renames, words)
