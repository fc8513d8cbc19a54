"""What is asked: texts, pictures, classes and probes, each with a weight, made into one vector.

A query of one part is searched with as it is. Several are put on one scale and mixed, see
``mixing``. Pictures that were good or bad move a query as in Rocchio's relevance feedback, with
the weights of Manning, Raghavan and Schuetze (2008, section 9.1.1): 0.75 for all the good ones
together, 0.15 for all the bad ones.
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from clipsearch.domain import policy
from clipsearch.domain.scale import Scale
from clipsearch.errors import ClipsearchError, IndexUnreadable, Refused, UsageError
from clipsearch.evaluation import probes
from clipsearch.records import (
    EVERYTHING,
    Encoder,
    Filter,
    Hit,
    QueryKind,
    TextEncoder,
    Vectors,
)
from clipsearch.search import answer
from clipsearch.search.answer import Asked
from clipsearch.search.fusion import Ingredient, mix
from clipsearch.storage.collection import Collection

PartKind = Literal["text", "image", "stored", "class", "probe"]
Role = Literal["wanted", "unwanted", "good", "bad"]
"""What it is about; what it is to be without; pictures seen, and found good or bad."""

_GOOD, _BAD, _UNWANTED = 0.75, 0.15, 0.5

_WEIGHT = re.compile(r"(\d+(?:\.\d*)?|\.\d+):(.*)", re.DOTALL)
_MOST = 100.0


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a query says."""

    kind: PartKind
    what: str
    """The text; a file's path or a picture's id; the place of a collection and the id of a
    picture in it (``0-12``); a class's name; ``PROBE/CLASS``."""
    weight: float = 1.0
    role: Role = "wanted"

    @property
    def said(self) -> str:
        """The part in words, for a heading."""
        sign = {"wanted": "", "unwanted": "not ", "good": "like ", "bad": "unlike "}[self.role]
        weight = "" if self.weight == 1 else f"{self.weight:g}:"
        return f"{sign}{weight}{self.what}"


@dataclass(frozen=True, slots=True)
class Query:
    """All that one query says."""

    parts: tuple[Part, ...]

    @property
    def said(self) -> str:
        """The query in words."""
        return ", ".join(part.said for part in self.parts)

    @property
    def texts(self) -> list[str]:
        """The texts in it, for checks and for the text encoder."""
        return [part.what for part in self.parts if part.kind == "text"]


def weighted(text: str) -> tuple[float, str]:
    """A weight and what follows it: ``2:a dog`` is twice "a dog", and ``a dog`` once.

    ``1:`` before anything that begins like a weight takes it as it is. Raises UsageError for a
    weight of nothing, or without anything behind it.
    """
    found = _WEIGHT.fullmatch(text)
    if found is None:
        return 1.0, text
    weight, what = float(found[1]), found[2]
    if not 0 < weight <= _MOST:
        raise UsageError(
            f"'{text}' has a weight of {found[1]}",
            hint=f"A weight is greater than 0 and at most {_MOST:g}; see --not.",
        )
    if not what.strip():
        raise UsageError(
            f"'{text}' is a weight of nothing", hint='Say of what, for example "2:a dog".'
        )
    return weight, what


class Searcher:
    """Asks collections that share a model; encoders are loaded when they are first needed."""

    def __init__(
        self,
        collections: Sequence[Collection],
        load_text_encoder: Callable[[], TextEncoder],
        load_encoder: Callable[[], Encoder],
    ) -> None:
        self.collections = collections
        self._text_encoder = cache(load_text_encoder)
        self._encoder = cache(load_encoder)

    def ask(self, query: Query, *, allow_out_of_domain: bool = False) -> Asked:
        """Make a query ready.

        Raises RefusedByPolicy, before anything is computed, and OutOfDomain; UsageError for what
        cannot be looked for.
        """
        (asked,) = self.ask_each([query], allow_out_of_domain=allow_out_of_domain)
        if isinstance(asked, ClipsearchError):
            raise asked
        return asked

    def ask_each(
        self, queries: Sequence[Query], *, allow_out_of_domain: bool = False
    ) -> list[Asked | ClipsearchError]:
        """Make queries ready, with all their texts embedded at once.

        What is refused, and what cannot be looked for, is an answer: nothing is raised that
        concerns one of them alone.
        """
        refusals: dict[int, Refused] = {}
        for n, query in enumerate(queries):
            try:
                for text in query.texts:
                    policy.check(text)
            except Refused as refusal:
                refusals[n] = refusal
        texts = [
            text for n, query in enumerate(queries) if n not in refusals for text in query.texts
        ]
        vectors = self._text_encoder().encode_texts(texts) if texts else np.empty((0, 0))
        embedded = dict(zip(texts, vectors, strict=True))
        answers: list[Asked | ClipsearchError] = []
        for n, query in enumerate(queries):
            try:
                answers.append(
                    refusals[n]
                    if n in refusals
                    else self._made(query, embedded, check=not allow_out_of_domain)
                )
            except ClipsearchError as error:  # a probe of another model, say
                answers.append(error)
        return answers

    def hits(
        self,
        asked: Asked,
        k: int,
        only: Filter = EVERYTHING,
        *,
        max_false_alarm: float = 1.0,
        exact: bool = False,
    ) -> list[Hit]:
        """The ``k`` best hits, see ``retrieval.search``."""
        return answer.search(
            self.collections, asked, k, only, max_false_alarm=max_false_alarm, exact=exact
        )

    def hits_of_each(
        self,
        asked: Sequence[Asked],
        k: int,
        only: Filter = EVERYTHING,
        *,
        max_false_alarm: float = 1.0,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The same for several queries at once."""
        return answer.search_each(
            self.collections, asked, k, only, max_false_alarm=max_false_alarm, exact=exact
        )

    # -- one query -------------------------------------------------------------------------

    def _made(self, query: Query, embedded: dict[str, Vectors], *, check: bool) -> Asked:
        if not any(part.role in ("wanted", "good") for part in query.parts):
            raise UsageError(
                "there is nothing to look for: --not and --unlike only say what is unwanted",
                hint='For example: clipsearch search "a fruit" --not "a banana"',
            )
        weights = _weights(query)
        ingredients, left_out = [], []
        for part, weight in zip(query.parts, weights, strict=True):
            vector, kind, file = self._part(part, embedded)
            if check and part.kind == "text" and part.role == "wanted":
                answer.check_domain(self.collections, part.what, vector)
            if file is not None and part.role != "good":
                left_out.append(file)
            ingredients.append(Ingredient(vector, kind, weight))
        if len(ingredients) == 1:
            return Asked(ingredients[0].vector, ingredients[0].kind, tuple(left_out))
        mixture = mix(ingredients, self._scale())
        return Asked(mixture.vector, mixture.kind, tuple(left_out), mixture.offset)

    def _part(
        self, part: Part, embedded: dict[str, Vectors]
    ) -> tuple[Vectors, QueryKind, Path | None]:
        """A part's vector ``(dim,)``, its kind, and the file that it is, if it is one."""
        match part.kind:
            case "text":
                return embedded[part.what], "text", None
            case "class":
                vector = answer.class_vector(self.collections, part.what, self._text_encoder)
                return vector, "text", None
            case "probe":
                return self._probe(part.what), "probe", None
            case "image":
                return self._image(part)
            case "stored":
                place, _, id = part.what.partition("-")
                return self._stored(int(place), int(id))

    def _image(self, part: Part) -> tuple[Vectors, QueryKind, Path]:
        stores = [collection.store for collection in self.collections]
        if part.what.isdecimal() and part.role in ("good", "bad") and not os.path.exists(part.what):
            if len(stores) > 1:
                raise UsageError(
                    f"'{part.what}' is a picture's number, and there are {len(stores)} indexed "
                    "folders here",
                    hint="Name the picture by its path, or the folder with --under FOLDER.",
                )
            with suppress(KeyError, OverflowError):
                id = int(part.what)
                return stores[0].vector(id), "image", stores[0].path_of(id)
            raise UsageError(
                f"there is no picture {part.what} in the index of {stores[0].root}",
                hint="The numbers are the ids that --json prints.",
            )
        file = Path(part.what)
        return answer.image_vector(stores, file, self._encoder), "image", file

    def _stored(self, place: int, id: int) -> tuple[Vectors, QueryKind, Path]:
        try:
            store = self.collections[place].store
            return store.vector(id), "image", store.path_of(id)
        except (LookupError, OverflowError) as error:
            raise UsageError(
                "a picture that was marked is no longer in the index",
                hint="Take its mark back, or begin anew.",
            ) from error

    def _probe(self, asked: str) -> Vectors:
        if len(self.collections) > 1:
            raise UsageError(
                f"'@{asked}' is no saved query, and a probe belongs to one of the "
                f"{len(self.collections)} indexed folders here",
                hint="Say which one you mean with --under FOLDER.",
            )
        return probes.query(self.collections[0].store, asked)

    def _scale(self) -> Scale:
        scales = [collection.scale for collection in self.collections]
        whole = [scale for scale in scales if scale is not None]
        if not whole:
            raise IndexUnreadable(
                "a query of several parts needs measurements that this index does not have",
                hint="Make them with: clipsearch index FOLDER (no picture is embedded anew).",
            )
        return Scale.pooled(whole)


def _weights(query: Query) -> list[float]:
    """What each part counts for, with the sign of its role."""
    alone = not any(part.role == "wanted" for part in query.parts)
    of_role = {
        "wanted": 1.0,
        "unwanted": -_UNWANTED,
        # Good pictures alone are the query.
        "good": 1.0 if alone else _GOOD,
        "bad": -_BAD,
    }
    totals = {
        role: sum(part.weight for part in query.parts if part.role == role)
        for role in ("good", "bad")
    }
    return [
        of_role[part.role] * part.weight / (totals.get(part.role) or 1.0) for part in query.parts
    ]
