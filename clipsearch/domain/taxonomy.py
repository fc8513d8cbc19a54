"""A domain: the fixed class taxonomy that a collection is searched and tested with.

A domain is a TOML file. It is read strictly, because a typo that is silently ignored would be
measured as if it were intended. Every error names the file and the place in it.

``everyday`` is shipped next to this module and is the default; ``starter`` is the template of a
new domain file.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clipsearch import typed
from clipsearch.domain import policy
from clipsearch.domain.pass_marks import IMAGES, REFUSED, SHARES
from clipsearch.errors import BadDomain, RefusedByPolicy
from clipsearch.text import did_you_mean

DEFAULT = "everyday"
"""The domain of an index without a domain of its own."""

PLACE = "{}"
"""Placeholder for the class name in a template."""

_KeyPath = tuple[str | int, ...]
"""Keys and positions that lead to a value in a file: ``("classes", 2, "synonyms", 0)``."""


@dataclass(frozen=True, slots=True)
class DomainClass:
    """One class of a taxonomy."""

    name: str
    synonyms: tuple[str, ...] = ()
    """Other words for it: queries with them are accepted, and they are valid labels."""
    prompts: tuple[str, ...] = ()
    """Descriptions that replace the templates for this class, if there are any."""


@dataclass(frozen=True)
class Domain:
    """A fixed class taxonomy with its templates and its tests."""

    name: str
    description: str
    language: str
    """ISO 639-1 code of its language."""
    templates: tuple[str, ...]
    """Each contains ``{}`` once, for the class name."""
    classes: tuple[DomainClass, ...]
    in_domain: tuple[str, ...] = ()
    """Queries that must be accepted."""
    out_of_domain: tuple[str, ...] = ()
    """Queries that have nothing to do with the domain."""
    pass_marks: Mapping[str, float] = field(default_factory=dict)
    """What an evaluation must reach; the names are from SHARES, IMAGES and REFUSED."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of every class axis."""
        return tuple(cls.name for cls in self.classes)

    def prompts(self, index: int) -> tuple[str, ...]:
        """The texts that are averaged into the embedding of class ``index``."""
        cls = self.classes[index]
        return cls.prompts or tuple(t.replace(PLACE, cls.name) for t in self.templates)

    def find_class(self, label: str) -> int | None:
        """The class with this name or synonym, ignoring case, with _ and - as spaces."""
        return self._by_name.get(folded(label))

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {
            folded(name): index
            for index, cls in enumerate(self.classes)
            for name in (cls.name, *cls.synonyms)
        }

    def to_json(self) -> str:
        """The domain as JSON text, to be pinned to an index; the inverse of ``from_json``."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Domain":
        """Rebuild a domain from the text of ``to_json``. Raises ValueError for any other text."""
        domain: Domain = typed.from_json(cls, text)
        if len(domain.classes) < 2:
            raise ValueError("there are fewer than two classes")
        if not domain.templates or any(t.count(PLACE) != 1 for t in domain.templates):
            raise ValueError("there are no templates, or one lacks the place for the class name")
        _ = domain.fingerprint  # fails for unpaired surrogates, which JSON allows
        return domain

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of everything in the domain that can change a result.

        It does not include the layout of the file, the order of its entries, the name
        or the description.
        """
        meaning = {
            "language": self.language,
            "templates": sorted(self.templates),
            "classes": sorted(
                [cls.name, sorted(cls.synonyms), sorted(cls.prompts)] for cls in self.classes
            ),
            "in_domain": sorted(self.in_domain),
            "out_of_domain": sorted(self.out_of_domain),
            "pass_marks": {key: float(mark) for key, mark in self.pass_marks.items()},
        }
        text = json.dumps(meaning, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def folded(name: str) -> str:
    """A name in comparable form: ``Golden_Retriever`` and ``golden retriever`` are the same."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).casefold().split())


def shipped() -> tuple[str, ...]:
    """Names of the domains inside the package."""
    return (DEFAULT,)


def load(choice: str) -> Domain:
    """The domain for the name of a shipped one, or for the path of a file.

    Raises BadDomain, RefusedByPolicy.
    """
    if choice in shipped():
        return parse(source(choice), f"{choice}.toml")
    return read(Path(choice))


def source(name: str) -> str:
    """The text of a shipped domain's file."""
    return _resource(f"{name}.toml")


def starter() -> str:
    """The text of a small, valid and commented domain file to start from."""
    return _resource("starter.toml")


def _resource(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def read(path: Path) -> Domain:
    """Read a domain file. Raises BadDomain, RefusedByPolicy."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadDomain(
            f"there is no domain file {path}{did_you_mean(str(path), shipped())}",
            hint=f"Name a TOML file, or one of the shipped domains: {', '.join(shipped())}. "
            "To start a new one: clipsearch domain init",
        ) from error
    except OSError as error:
        raise BadDomain(f"cannot read the domain file {path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadDomain(f"{path}, line {line}: not UTF-8 text", hint="Save it as UTF-8.") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Domain:
    """Read a domain from TOML text; ``source`` names it in error messages.

    Raises BadDomain if anything is missing, unknown, of the wrong type, empty or duplicate, and
    RefusedByPolicy if the usage policy forbids a class, prompt, template or example.
    """
    import tomllib  # here, because a query needs only the pinned domain, which is JSON

    text = text.replace("\r\n", "\n")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadDomain(
            f"{source}{_place_of(error, text)}: not valid TOML: {_without_place(error)}",
            hint="Strings need quotation marks; lists need commas and brackets.",
        ) from error
    return _Reader(values, source).domain()


def _place_of(error: ValueError, text: str) -> str:
    found = re.search(r"\(at line (\d+)", str(error))
    line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1  # "at end of document"
    return f", line {line}"


def _without_place(error: ValueError) -> str:
    return re.sub(r" \(at .*\)$", "", str(error))


class _Reader:
    """Turns parsed TOML into a Domain, or raises an error that names the place."""

    _KEYS = (
        "name",
        "description",
        "language",
        "templates",
        "in_domain",
        "out_of_domain",
        "pass_marks",
        "classes",
    )
    _CLASS_KEYS = ("name", "synonyms", "prompts")

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values = values
        self._source = source

    def domain(self) -> Domain:
        self._only_known_keys(self._values, (), self._KEYS)
        name = self._text_at(self._values, ("name",))
        language = self._text_at(self._values, ("language",), default="en")
        if not re.fullmatch(r"[a-z]{2}(-[A-Z]{2})?", language):
            raise self._wrong(("language",), f"'{language}' is not a language code such as en")
        return Domain(
            name=name,
            description=self._text_at(self._values, ("description",), default=""),
            language=language,
            templates=self._templates(),
            classes=self._classes(),
            in_domain=(examples := self._texts(self._values, ("in_domain",))),
            out_of_domain=self._out_of_domain(examples),
            pass_marks=self._pass_marks(),
        )

    def _templates(self) -> tuple[str, ...]:
        templates = self._texts(self._values, ("templates",))
        if not templates:
            raise self._wrong(
                ("templates",), "there are none", hint='One is enough: "a photo of a {}."'
            )
        for position, template in enumerate(templates):
            if template.count(PLACE) != 1:
                raise self._wrong(
                    ("templates", position),
                    f"the template '{template}' must contain {PLACE} once, for the class name",
                )
        return templates

    def _classes(self) -> tuple[DomainClass, ...]:
        tables = self._values.get("classes", [])
        if not isinstance(tables, list):
            raise self._wrong(("classes",), "must be a list of tables", hint=_CLASS_HINT)
        classes = []
        where: dict[str, _KeyPath] = {}
        for position, table in enumerate(tables):
            path = ("classes", position)
            if not isinstance(table, dict):
                raise self._wrong(path, "must be a table", hint=_CLASS_HINT)
            self._only_known_keys(table, path, self._CLASS_KEYS)
            cls = DomainClass(
                name=self._text_at(table, (*path, "name")),
                synonyms=self._texts(table, (*path, "synonyms")),
                prompts=self._texts(table, (*path, "prompts")),
            )
            named: list[tuple[str, _KeyPath]] = [(cls.name, (*path, "name"))]
            named += [(s, (*path, "synonyms", n)) for n, s in enumerate(cls.synonyms)]
            for name, its_path in named:
                self._claim(name, its_path, where)
            classes.append(cls)
        if len(classes) < 2:
            raise self._wrong(
                ("classes",),
                f"a taxonomy needs at least two classes, but has {len(classes)}",
                hint=_CLASS_HINT,
            )
        return tuple(classes)

    def _claim(self, name: str, path: _KeyPath, where: dict[str, _KeyPath]) -> None:
        """Reserve a name. The same word for two classes could not be scored."""
        key = folded(name)
        if not key:
            raise self._wrong(path, f"'{name}' is not a name")
        if key in where:
            raise self._wrong(
                path, f"'{name}' is already a class or synonym, at {_in_words(where[key])}"
            )
        where[key] = path

    def _out_of_domain(self, in_domain: Sequence[str]) -> tuple[str, ...]:
        # Out-of-domain examples may violate the policy.
        examples = self._texts(self._values, ("out_of_domain",), check_policy=False)
        inside = {folded(query) for query in in_domain}
        for position, query in enumerate(examples):
            if folded(query) in inside:
                raise self._wrong(
                    ("out_of_domain", position), f"'{query}' is also an in-domain example"
                )
        return examples

    def _pass_marks(self) -> Mapping[str, float]:
        marks = self._values.get("pass_marks")
        if not isinstance(marks, dict) or not marks:
            raise self._wrong(
                ("pass_marks",),
                "there are none, so no evaluation could pass",
                hint="For example:  [pass_marks]  top1 = 0.6",
            )
        self._only_known_keys(marks, ("pass_marks",), (*SHARES, IMAGES, REFUSED))
        for key, mark in marks.items():
            number = isinstance(mark, int | float) and not isinstance(mark, bool)
            if key == IMAGES:
                if not isinstance(mark, int) or isinstance(mark, bool) or mark < 1:
                    raise self._wrong(("pass_marks", key), "must be a number of images, at least 1")
            elif not number or not 0 <= mark <= 1:
                raise self._wrong(("pass_marks", key), "must be a number from 0 to 1")
        return dict(marks)

    # -- values and their places -----------------------------------------------------------

    def _only_known_keys(
        self, table: Mapping[str, Any], path: _KeyPath, known: Sequence[str]
    ) -> None:
        for key in table:
            if key not in known:
                raise self._wrong(
                    path,
                    f"unknown key '{key}'{did_you_mean(key, known, 1)}",
                    hint=f"Known keys: {', '.join(known)}.",
                )

    def _text_at(self, table: Mapping[str, Any], path: _KeyPath, default: str | None = None) -> str:
        key = str(path[-1])
        value = table.get(key, default)
        if value is None:
            raise self._wrong(path, "missing")
        if not isinstance(value, str):
            raise self._wrong(path, f"must be a string in quotation marks, not {value!r}")
        if key == "name":
            self._check(value, path)
        return value.strip()

    def _texts(
        self, table: Mapping[str, Any], path: _KeyPath, *, check_policy: bool = True
    ) -> tuple[str, ...]:
        """A list of strings, without empty ones and duplicates."""
        values = table.get(str(path[-1]), [])
        if not isinstance(values, list):
            raise self._wrong(path, f"must be a list of strings, not {values!r}")
        seen: dict[str, _KeyPath] = {}
        for position, value in enumerate(values):
            its_path = (*path, position)
            if not isinstance(value, str):
                raise self._wrong(its_path, f"must be a string in quotation marks, not {value!r}")
            self._check(value, its_path, check_policy=check_policy)
            first = seen.setdefault(folded(value), its_path)
            if first != its_path:
                raise self._wrong(its_path, f"'{value}' is a duplicate of {_in_words(first)}")
        return tuple(value.strip() for value in values)

    def _check(self, value: str, path: _KeyPath, *, check_policy: bool = True) -> None:
        if not value.strip():
            raise self._wrong(path, "must not be empty")
        if not value.isprintable():
            raise self._wrong(path, f"{value!r} contains a line break or a control character")
        refusal = policy.refusal(value) if check_policy else None
        if refusal is not None:
            raise RefusedByPolicy(
                f"{self._place(path)}: '{value}' {refusal.reason}", hint=refusal.source
            )

    def _wrong(self, path: _KeyPath, what: str, hint: str = "") -> BadDomain:
        return BadDomain(f"{self._place(path)}: {what}", hint=hint)

    def _place(self, path: _KeyPath) -> str:
        return f"{self._source}, {_in_words(path)}" if path else self._source


def _in_words(path: _KeyPath) -> str:
    """Positions are counted from 1: ``classes 3, synonyms 1``."""
    return "".join(f" {step + 1}" if isinstance(step, int) else f", {step}" for step in path)[2:]


_CLASS_HINT = 'For example:  [[classes]]  name = "dog"  synonyms = ["puppy"]'
