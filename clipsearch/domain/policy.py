"""The usage policy: what the model must never be used for, and what it was never tested for.

The model card of CLIP ViT-B/16 LAION-2B, like OpenAI's before it, says under "Out-of-Scope Use":
"Certain use cases which would fall under the domain of surveillance and facial recognition are
always out-of-scope regardless of performance of the model", and "Since the model has not been
purposefully trained in or evaluated on any languages other than English, its use should be limited
to English language use cases." The first use is always refused; for the second, users get a note.

A rule sees words, not intentions: a text can be phrased so that no rule matches. The rules state
plainly what this program is not for, each with its reason. They refuse queries that ask *who*
somebody is, or *where else* the same person is, and accept images that contain people, faces or
cameras.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache

from clipsearch.errors import RefusedByPolicy
from clipsearch.text import shortened

SOURCE = (
    'The model card, "Out-of-Scope Use": surveillance and facial recognition are "always '
    'out-of-scope regardless of performance of the model".'
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a text is refused."""

    phrase: str
    """The part of the text that matched."""
    reason: str
    """Completes a sentence that starts with the text: "asks ..."."""
    source: str = SOURCE


def refusal(text: str) -> Refusal | None:
    """Why the policy refuses this query, class name or prompt; None if it does not."""
    words = _words(text)
    marked = " ".join(map(_marked, words))
    for reason, patterns in _rules().items():
        for pattern in patterns:
            found = pattern.search(marked)
            if found:
                first, last = (marked[:at].count(" ") for at in (found.start(), found.end() - 1))
                return Refusal(" ".join(words[first : last + 1]), reason)
    return None


def check(text: str) -> None:
    """Raise RefusedByPolicy if the policy refuses this text."""
    found = refusal(text)
    if found is not None:
        raise RefusedByPolicy(
            f"'{shortened(' '.join(text.split()))}' {found.reason}", hint=found.source
        )


def language_note(text: str) -> str | None:
    """A note for queries in a non-Latin script; None for all others."""
    language = _other_script(text)
    if language is None:
        return None
    return (
        f"the query seems to be {language}; the model was trained and evaluated in English only, "
        "and its answers to anything else are untested"
    )


# -- who, and where else -----------------------------------------------------------------------


def _words(text: str) -> list[str]:
    """The words in lower case, with plain apostrophes and hyphens and without punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[\u2018\u2019\u02bc`]", "'", text)
    text = re.sub(r"[\u2010-\u2014]", "-", text)
    return re.sub(r"[\"?!.,;:()]", " ", text).split()


_PERSONS = [
    "people",
    "person",
    "someone",
    "somebody",
    "anyone",
    "everyone",
    "man",
    "men",
    "woman",
    "women",
    "guy",
    "lady",
    "ladies",
    "boy",
    "girl",
    "kid",
    "child",
    "children",
    "teenager",
    "individual",
    "stranger",
    "pedestrian",
    "passer-by",
    "passerby",
    "passers-by",
    "neighbour",
    "neighbor",
    "employee",
    "worker",
    "colleague",
    "student",
    "customer",
    "shopper",
    "visitor",
    "passenger",
    "tourist",
    "driver",
    "attacker",
    "demonstrator",
    "activist",
    "immigrant",
    "actor",
    "actress",
    "singer",
    "politician",
    "celebrity",
    "celebrities",
    "wife",
    "husband",
    "girlfriend",
    "boyfriend",
]
_SUSPECTS = [
    "suspect",
    "criminal",
    "thief",
    "thieves",
    "shoplifter",
    "intruder",
    "fugitive",
    "terrorist",
    "protester",
    "protestor",
]
_MARKS = {
    **dict.fromkeys(_PERSONS, "PERSON"),
    **dict.fromkeys(_SUSPECTS, "PERSON-SUSPECT"),
    **dict.fromkeys(("ex", "ex-wife", "ex-husband", "ex-girlfriend", "ex-boyfriend"), "PERSON-EX"),
    **dict.fromkeys(("photo", "picture", "pic", "image", "shot", "video", "footage"), "PICTURES"),
}
"""Words that the rules treat the same, and the mark that replaces them."""


def _marked(word: str) -> str:
    stem, apostrophe, ending = word.partition("'")
    mark = _MARKS.get(stem) or _MARKS.get(stem.removesuffix("s"))
    return mark + apostrophe + ending if mark else word


@cache
def _rules() -> dict[str, list[re.Pattern[str]]]:
    """Reason -> patterns over marked words."""
    which = r"(?:this|that|these|those|the|an?|my|our|your|his|her|their|every|each|all|which) "
    # Somebody: up to two adjectives between a determiner and the noun.
    person = rf"(?:{which}(?:[\w'-]+ ){{0,2}}?PERSON|(?:[\w'-]+ )??PERSON|him|her|them)\b"
    # A person that the user has in mind; "her" but not "her wedding dress".
    him = r"(?:him|her|them)(?:$| (?:in|on|at|across|again|from|now)\b)"
    this_one = (
        r"(?:(?:this|that|these|those|the same) (?:\w+ )?PERSON\b|(?:my|his|her) PERSON-EX\b|"
        rf"{him})"
    )
    # The verb must be a request: "track this man", but not "a dog tracks a man".
    asked = r"(?:^|\b(?:to|and|please|me|you|of|for) )"
    verify = r"\b(?:verify|check|confirm|prove|reveal)(?:ing)?"
    written = {
        "asks to recognize or compare faces": (
            r"\b(?:face|facial)[ -](?:recogni|identif|verif|authent|biometric|surveil|compari)\w+",
            r"\bface[ -](?:match(?:ing)?|search|lookup|database|embeddings?|clusters?|id)\b",
            r"\bface[ -](?:cluster|track)ing\b",
            rf"\b(?:recogni[sz]e|identify|match|compare|verify)(?:ing)? (?:\w+ )??(?:{which})?"
            rf"(?:two )?faces?\b(?! of (?!{person})| mask| cream| paint)",
            r"\b(?:find|search for|look for|match) (?:\w+ )*(?:this|that|his|her|the same) face\b",
            r"\b(?:sort|group|cluster)\w* (?:\w+ )*by (?:\S+ )?(?:faces?|PERSON)\b",
            r"\b(?:by|with) (?:this |that |(?:his|her|their) )?faces?$",
            r"\bwhose face\b|\b(?:same|matching|identical) faces?\b",
            r"\bfaces? (?:(?:that|which) match|similar to)|\bthis face match",
            r"\bname to (?:this|that|the|a) face\b|\bwatch-?list of\b",
            r"\bmatch\w* (?:\w+ )*mug(?:-?shots?| PICTURES)\b",
            r"\bmug(?:-?shots?| PICTURES) (?:match|search|lookup|data|compari)",
        ),
        "asks who somebody is": (
            r"^(?:(?:tell|show) me |find out |do you know |can you tell me )?"
            r"who(?:'s| (?:is|are|was|were|might|could|owns|lives))\b",
            r"^(?:tell me|find out|do you know) who (?:\w+ )*(?:is|are|was|were)\b",
            rf"\b(?:names?|identity|identities) of {person}",
            rf"\bwhat(?:'s| is| are) (?:his|her|their|{person}'s) (?:\w+ )?names?\b",
            rf"\bwhat(?:'s| is| are) {person} called\b",
            r"^(?:what|which) (?:\w+ )?PERSON (?:is|are|was) (?:this|that|it)\b",
            rf"\b(?:re-?)?identify(?:ing)? {person}|\brecogni[sz](?:e|ing) {person}",
            rf"\b(?:unmask|dox+|de-?anonymi[sz]e)(?:ing)? {person}|^name {person}",
            rf"{verify} (?:that )?(?:{person}|\w+) (?:is|are)\b",
            rf"{verify} (?:\w+ )?identit(?:y|ies)\b",
            rf"^(?:is|are|was) (?:this|that|it|he|she|these|they) (?:{this_one}|my PERSON\b)",
            rf"^(?:is|are|was) (?:{this_one}|he|she|they) (?:an? )?PERSON-SUSPECT\b",
            r"(?:PERSON\S*|\bgait|\biris|\bbiometric) (?:re-?)?(?:identif|recogni|verif)\w*tion\b",
            rf"(?<!in )\b(?:re-?)?(?:identification|recognition|verification) of {person}",
        ),
        "asks where else the same person is": (
            r"\bsame PERSON\b(?: as\b| in (?:other|another|different|the other|all)\b)",
            r"(?:^(?:is|are|do|does)|\bPICTURES)\b.* same PERSON\b",
            r"\b(?:this|that|the) (?:exact|specific|particular|very) PERSON\b",
            rf"\blook(?:s|ing)? like {this_one}|\blook-?alikes? of\b",
            rf"\b(?:find|locate|search for|look for) {this_one}",
            r"\b(?:find|get|show me|more|other|all|every|any) (?:\w+ ){0,2}?PICTURES "
            rf"(?:of|with|showing) {this_one}",
            rf"^where (?:else )?(?:is|are|was|does|did|has|have) (?:he\b|she\b|{this_one})",
        ),
        "asks to follow or watch people": (
            rf"{asked}(?:track(?: down)?|trac(?:e|ing)|stalk|spy(?:ing)? on|monitor|surveil|"
            rf"keep(?:ing)? (?:an eye|tabs) on)(?:ing|ling)? {person}",
            rf"{asked}follow(?:ing)? (?:PERSON\b|{this_one})",
            r"PERSON\S* (?:tracking|surveillance)\b(?! (?:an?|the|his|her|their|its)\b)",
            rf"\bsurveillance (?:PICTURES )?of {person}|\b(?:movements|whereabouts) of {person}",
            rf"\b{person} across (?:\w+ )*cameras\b|\bdetect(?:ing)? PERSON-SUSPECT\b",
        ),
    }
    return {reason: [re.compile(rule) for rule in rules] for reason, rules in written.items()}


# -- other scripts -----------------------------------------------------------------------------

_SCRIPTS = {
    **dict.fromkeys(("HIRAGANA", "KATAKANA"), "in Japanese"),
    "CJK": "in Chinese or Japanese",
    "HANGUL": "in Korean",
    "ARABIC": "in Arabic script",
    "CYRILLIC": "in Cyrillic script",
    "DEVANAGARI": "in Devanagari script",
}


def _other_script(text: str) -> str | None:
    """The script of most letters of the text, unless it is Latin."""
    letters = [character for character in text if character.isalpha()]
    scripts = Counter(unicodedata.name(letter, "UNKNOWN").split()[0] for letter in letters)
    others = [script for script in scripts if script != "LATIN"]
    if 2 * sum(scripts[script] for script in others) <= len(letters):
        return None
    japanese = next((script for script in others if script in ("HIRAGANA", "KATAKANA")), None)
    script = japanese or max(others, key=scripts.__getitem__)
    return _SCRIPTS.get(script, f"in {script.capitalize()} script")
