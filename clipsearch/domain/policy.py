"""The usage policy: what is never asked of the model, and what it was never tested for.

The model card of CLIP ViT-B/16 LAION-2B, like OpenAI's before it, says under "Out-of-Scope Use":
"Certain use cases which would fall under the domain of surveillance and facial recognition are
always out-of-scope regardless of performance of the model", and "Since the model has not been
purposefully trained in or evaluated on any languages other than English, its use should be limited
to English language use cases." The first is refused always; of the second, people are told.

A rule reads words and not minds: a text can be put so that none sees what is meant. The rules say
plainly what this program is not for, each with its reason. They refuse what asks for *who*
somebody is, or *where else* the same person is, and let pass pictures that have people, faces or
cameras in them.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from clipsearch.errors import RefusedByPolicy

SOURCE = (
    'The model card, "Out-of-Scope Use": surveillance and facial recognition are "always '
    'out-of-scope regardless of performance of the model".'
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a text is refused."""

    phrase: str
    """The part of the text that led to it."""
    reason: str
    """The end of a sentence that begins with the text: "asks ..."."""
    source: str = SOURCE


def refusal(text: str) -> Refusal | None:
    """Why the policy refuses this query, class name or prompt; None if it does not."""
    plain = _plain(text)
    for reason, patterns in _RULES.items():
        for pattern in patterns:
            found = pattern.search(plain)
            if found:
                return Refusal(found.group().strip(), reason)
    return None


def check(text: str) -> None:
    """Raise RefusedByPolicy if the policy refuses this text."""
    found = refusal(text)
    if found is not None:
        raise RefusedByPolicy(f"'{' '.join(text.split())}' {found.reason}", hint=found.source)


def language_note(text: str) -> str | None:
    """What to tell whoever asks in another script or evidently another language than English."""
    language = _other_script(text) or _other_language(text)
    if language is None:
        return None
    return (
        f"the query seems to be {language}; the model was trained and evaluated in English only, "
        "and its answers to anything else are untested"
    )


# -- who, and where else -----------------------------------------------------------------------


def _plain(text: str) -> str:
    """Lower case, plain apostrophes and hyphens, single spaces, without question marks."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[\u2018\u2019\u02bc`]", "'", text)
    text = re.sub(r"[\u2010-\u2014-]", "-", text)
    return " ".join(re.sub(r"[\"?!.,;:()]", " ", text).split())


_NOUN = (
    "people|persons?|someone|somebody|anyone|everyone|man|men|woman|women|guys?|lady|ladies|boys?|"
    "girls?|kids?|child|children|teenagers?|individuals?|strangers?|pedestrians?|passers?-?by|"
    "neighbou?rs?|employees?|workers?|colleagues?|students?|customers?|shoppers?|visitors?|"
    "passengers?|tourists?|drivers?|attackers?|suspects?|criminals?|thief|thieves|shoplifters?|"
    "intruders?|fugitives?|protest[eo]rs?|demonstrators?|activists?|immigrants?|actors?|actress|"
    "singers?|politicians?|celebrity|celebrities|wife|husband|girlfriend|boyfriend|ex|"
    "ex-?(?:wife|husband|girlfriend|boyfriend)"
)
_ANY = r"(?:this|that|these|those|the|an?|my|our|your|his|her|their|every|each|all|which) "
_PERSON = rf"(?:{_ANY}(?:[\w'-]+ ){{0,2}}?(?:{_NOUN})|(?:[\w'-]+ )??(?:{_NOUN})|him|her|them)\b"
"""Somebody: up to two adjectives between a determiner and the noun."""

_HIM = r"(?:him|her|them)(?:$| (?:in|on|at|across|again|from|now)\b)"
"""And not "her wedding dress"."""

_SAME_ONE = (
    rf"(?:(?:this|that|these|those|the same) (?:\w+ )?(?:{_NOUN})\b|(?:my|his|her) ex\b|{_HIM})"
)
_ASKED = r"(?:^|\b(?:to|and|please|me|you|of|for) )"
"""Where a verb is a request: "track this man", but not "a dog tracks a man"."""

_VERIFY = r"\b(?:verify|check|confirm|prove|reveal)(?:ing)?"
_PICTURES = r"(?:photos?|pictures?|pics?|images?|shots?|videos?|footage)"


def _compiled(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


_RULES = {
    "asks to recognise or compare faces": _compiled(
        r"\b(?:face|facial)[ -](?:recogni|identif|verif|authenticat|biometric|surveil|compari)\w+",
        r"\bface[ -](?:match(?:ing)?|search|lookup|database|embeddings?|cluster\w*|track\w*|id)\b",
        rf"\b(?:recogni[sz]e|identify|match|compare|verify)(?:ing)? (?:\w+ )??(?:{_ANY})?(?:two )?"
        rf"faces?\b(?! of (?!{_PERSON})| mask| cream| paint)",
        r"\b(?:find|search for|look for|match) (?:\w+ )*(?:this|that|his|her|the same) face\b",
        r"\b(?:sort|group|cluster)\w* (?:\w+ )*by (?:\S+ )?(?:faces?|persons?)\b",
        r"\b(?:by|with) (?:this |that |(?:his|her|their) )?faces?$",
        r"\bwhose face\b|\b(?:same|matching|identical) faces?\b|\bname to (?:this|that|the|a) face",
        r"\bfaces? (?:(?:that|which) match|similar to|does match)|\bwatch-?list of\b",
        r"\bmatch\w* (?:\w+ )*mug-? ?shots?\b",
        r"\bmug-? ?shots? (?:match|search|lookup|database|compari)",
    ),
    "asks who somebody is": _compiled(
        r"^(?:(?:tell|show) me |find out |do you know |can you tell me )?"
        r"who(?:'s| (?:is|are|was|were|might|could|owns|lives))\b",
        r"^(?:tell me|find out|do you know) who (?:\w+ )*(?:is|are|was|were)\b",
        rf"\b(?:names?|identity|identities) of {_PERSON}",
        rf"\bwhat(?:'s| is| are) (?:his|her|their|{_PERSON}'s) (?:\w+ )?names?\b",
        rf"\bwhat(?:'s| is| are) {_PERSON} called\b",
        rf"^(?:what|which) (?:\w+ )?(?:{_NOUN}) (?:is|are|was) (?:this|that|it)\b",
        rf"\b(?:re-?)?identify(?:ing)? {_PERSON}|\brecogni[sz](?:e|ing) {_PERSON}",
        rf"\b(?:unmask|dox+|de-?anonymi[sz]e)(?:ing)? {_PERSON}",
        rf"^name {_PERSON}",
        rf"{_VERIFY} (?:that )?(?:{_PERSON}|\w+) (?:is|are)\b",
        rf"{_VERIFY} (?:\w+ )?identit(?:y|ies)\b",
        rf"^(?:is|are|was) (?:this|that|it|he|she|these|they) (?:{_SAME_ONE}|my (?:{_NOUN})\b)",
        rf"^(?:is|are|was) (?:{_SAME_ONE}|he|she|they) an? (?:criminal|thief|terrorist|suspect)\b",
        r"\b(?:person|people|suspect|gait|iris|biometric) (?:re-?)?(?:identif|recogn|verif)\w+",
        rf"(?<!in )\b(?:re-?)?(?:identification|recognition|verification) of {_PERSON}",
    ),
    "asks where else the same person is": _compiled(
        rf"\bsame (?:{_NOUN})(?: as\b| in (?:other|another|different|the other|all)\b)",
        rf"(?:^(?:is|are|do|does)|\b{_PICTURES})\b.* (?:the )?same (?:{_NOUN})\b",
        rf"\b(?:this|that|the) (?:exact|specific|particular|very) (?:{_NOUN})\b",
        rf"\blook(?:s|ing)? like {_SAME_ONE}|\blook-?alikes? of\b",
        rf"\b(?:find|locate|search for|look for) {_SAME_ONE}",
        rf"\b(?:find|get|show me|more|other|all|every|any) (?:\w+ ){{0,2}}?{_PICTURES} (?:of|with|"
        rf"showing) {_SAME_ONE}",
        rf"^where (?:else )?(?:is|are|was|does|did|has|have) (?:he\b|she\b|{_SAME_ONE})",
    ),
    "asks to follow or watch people": _compiled(
        rf"{_ASKED}(?:track(?: down)?|trac(?:e|ing)|stalk|spy(?:ing)? on|monitor|surveil|"
        rf"keep(?:ing)? (?:an eye|tabs) on)(?:ing|ling)? {_PERSON}",
        rf"{_ASKED}follow(?:ing)? (?:people\b|{_SAME_ONE})",
        r"\b(?:people|person|pedestrian|employee|customer) (?:track|surveil)\w+",
        rf"\bsurveillance (?:{_PICTURES} )?of {_PERSON}|\b(?:movements|whereabouts) of {_PERSON}",
        rf"\b{_PERSON} across (?:\w+ )*cameras\b",
        r"\bdetect(?:ing)? (?:suspect|criminal|thieve|shoplifter|fugitive|protest[eo]r)s?\b",
    ),
}


# -- other languages ---------------------------------------------------------------------------

_SCRIPTS = {
    **dict.fromkeys(("HIRAGANA", "KATAKANA"), "in Japanese"),
    "CJK": "in Chinese or Japanese",
    "HANGUL": "in Korean",
    "ARABIC": "in Arabic script",
    "CYRILLIC": "in Cyrillic script",
    "DEVANAGARI": "in Devanagari script",
}


def _other_script(text: str) -> str | None:
    """The script of most letters of the text, if that is not the Latin one."""
    letters = [character for character in text if character.isalpha()]
    scripts = Counter(unicodedata.name(letter, "UNKNOWN").split()[0] for letter in letters)
    others = [script for script in scripts if script != "LATIN"]
    if 2 * sum(scripts[script] for script in others) <= len(letters):
        return None
    japanese = next((script for script in others if script in ("HIRAGANA", "KATAKANA")), None)
    script = japanese or max(others, key=scripts.__getitem__)
    return _SCRIPTS.get(script, f"in {script.capitalize()} script")


_ENGLISH = frozenset(
    {
        *("the", "of", "with", "and", "at", "from", "by", "as", "for", "to", "like", "up"),
        *("is", "are", "this", "that", "these", "his", "its", "what", "how"),
    }
)
"""Words that make a text English whatever else is in it: "the Rio de la Plata"."""

_LANGUAGES = {
    name: frozenset(words.split())
    for name, words in {
        "German": "der die das und ein eine einen einem einer mit auf im am vor dem den ist zwei "
        "neben unter über hund katze mann frau kind haus rote blaue",
        "French": "le la les un une des du et dans avec sur au aux est deux sous chien chat homme "
        "femme enfant maison rouge plage",
        "Spanish": "el la los las un una unos y con en del al sobre es dos perro gato hombre "
        "mujer niño rojo playa",
        "Italian": "il lo la gli un una di e con nel nella sul sulla del della due cane gatto "
        "uomo donna bambino rosso spiaggia",
        "Portuguese": "o os um uma e com em na da dos das dois cachorro cão homem mulher "
        "menino vermelho praia",
        "Dutch": "de het een en met op aan zijn twee naast onder hond kat vrouw kind huis "
        "rode strand",
        "Swedish, Danish or Norwegian": "en ett et och og med på den det av i två to hund katt kat "
        "kvinna kvinde kvinne hus rød röd",
        "Polish": "na w z pod dwa jest kot pies kobieta mężczyzna dziecko dom czerwony",
    }.items()
}
"""Small words, and a few of those that people look for most."""

_OWN_LETTERS = {
    "German": "ßäöü",
    "French": "âçêëîïôœùû",
    "Spanish": "ñ¿¡",
    "Portuguese": "ãõ",
    "Swedish, Danish or Norwegian": "åøæ",
    "Polish": "ąćęłńśźż",
}


def _other_language(text: str) -> str | None:
    """A language with two words in the text, or one and a letter of its own, and no English."""
    words = set(re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text).casefold()))
    if _ENGLISH & words:
        return None
    evidence = Counter({language: len(words & known) for language, known in _LANGUAGES.items()})
    for language, letters in _OWN_LETTERS.items():
        if evidence[language] and set(letters) & set("".join(words)):
            evidence[language] += 1
    (language, count), *_ = evidence.most_common(1)
    return f"in {language}" if count >= 2 else None
