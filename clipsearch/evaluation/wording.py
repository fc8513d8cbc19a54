"""The words for the classes of a labeled set, for when its own labels are not clear enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from clipsearch.domain import policy
from clipsearch.domain.taxonomy import Domain, DomainClass, folded
from clipsearch.domain.zero_shot import class_embeddings
from clipsearch.errors import UsageError
from clipsearch.evaluation.logistic import Floats
from clipsearch.records import TextEncoder
from clipsearch.text import did_you_mean, shortened


@dataclass(frozen=True, slots=True)
class Wording:
    """New names for labels, and texts for classes."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    """Label -> the class's name."""
    described: Mapping[str, str] = field(default_factory=dict)
    """Class -> a text that describes it; an empty one leaves the class without words."""

    @classmethod
    def of(cls, renames: Sequence[str], words: Sequence[str]) -> "Wording":
        """From ``LABEL=NAME`` and ``CLASS=TEXT``.

        Raises UsageError for anything else, and RefusedByPolicy for a name or a text.
        """
        renamed = _pairs(renames, "--rename", "LABEL=NAME")
        described = _pairs(words, "--words", "CLASS=TEXT")
        for label, name in renamed.items():
            if not name:
                raise UsageError(
                    f"--rename '{shortened(label)}=' gives no name", hint="Write LABEL=NAME."
                )
        for text in (*renamed.values(), *described, *filter(None, described.values())):
            policy.check(text)
        return cls(renamed, described)

    def applied(self, taxonomy: Domain) -> Domain:
        """A labeled set's taxonomy in these words. New classes are added at the end.

        Labels still identify their class. Raises UsageError for an unknown label, for a name that
        another class has, and for an added class without words.
        """
        classes = list(taxonomy.classes)
        for label, name in self.renamed.items():
            at = taxonomy.find_class(label)
            if at is None:
                known = taxonomy.class_names
                raise UsageError(
                    f"there is no label '{shortened(label)}'{did_you_mean(label, known)}",
                    hint=f"The labels are: {', '.join(known)}.",
                )
            classes[at] = DomainClass(name, synonyms=(taxonomy.classes[at].name,))
        for name, text in self.described.items():
            at = replace(taxonomy, classes=tuple(classes)).find_class(name)
            if at is None and not text:
                raise UsageError(
                    f"the class '{shortened(name)}' has neither images nor words",
                    hint="Give it words, or label images of it.",
                )
            if at is None:
                classes.append(DomainClass(name, prompts=(text,)))
            else:
                classes[at] = replace(classes[at], prompts=(text,) if text else ())
        names = [folded(known) for cls in classes for known in {cls.name, *cls.synonyms}]
        twice = next((cls.name for cls in classes if names.count(folded(cls.name)) > 1), None)
        if twice is not None:
            raise UsageError(
                f"two classes would be called '{shortened(twice)}'",
                hint="Give each its own name, or put their images together.",
            )
        return replace(taxonomy, classes=tuple(classes))

    def is_without_words(self, name: str) -> bool:
        """Whether the class with this name was left without words."""
        return any(folded(of) == folded(name) and not text for of, text in self.described.items())


AS_LABELED = Wording()
"""The labels are the words."""


def text_embeddings(taxonomy: Domain, wording: Wording, encoder: TextEncoder) -> Floats:
    """The starting weights of each class, ``(classes, dim)``.

    The unit vector of zero-shot classification; for a class without words, the mean of the
    others', so that the class is neither near an image nor far from it.
    Raises UsageError if fewer than two classes have words.
    """
    wordless = np.array([wording.is_without_words(name) for name in taxonomy.class_names], bool)
    if wordless.any() and np.count_nonzero(~wordless) < 2:
        raise UsageError(
            "fewer than two classes have words",
            hint="Give more classes words. If words do not help, training ignores them.",
        )
    words = class_embeddings(taxonomy, encoder).astype(np.float64)
    words[wordless] = words[~wordless].mean(axis=0)
    return words


def _pairs(given: Sequence[str], option: str, form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not key or not equals or not text.isprintable():
            raise UsageError(f"{option} '{shortened(text)}' is not {form}", hint=f"Write {form}.")
        if key in found:
            raise UsageError(f"{option} names '{shortened(key)}' twice", hint="Name it once.")
        found[key] = value
    return found
