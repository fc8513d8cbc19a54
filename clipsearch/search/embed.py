"""Turn queries into vectors: check them, embed them, and combine their parts.

A query with a single part is used as it is. Several parts are put on one scale and mixed (see
``fusion``). Images marked good or bad shift a query as in Rocchio's relevance feedback, with the
weights of Manning, Raghavan and Schuetze (2008, section 9.1.1): 0.75 for all good images
together, 0.15 for all bad ones.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipsearch.domain import policy
from clipsearch.domain.scale import Scale
from clipsearch.domain.zero_shot import class_embeddings
from clipsearch.errors import (
    ClipsearchError,
    ImageError,
    IndexUnreadable,
    OutOfDomain,
    Refused,
    UsageError,
)
from clipsearch.evaluation import probes
from clipsearch.images.scan import content_hash
from clipsearch.models.load import Encoders
from clipsearch.paths import require_regular
from clipsearch.records import QueryKind, Vectors
from clipsearch.search.fusion import Ingredient, mix
from clipsearch.search.query import Class, Image, Part, Probe, Query, Stored, Text, weight_note
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.text import did_you_mean, shortened

_GOOD, _BAD, _UNWANTED = 0.75, 0.15, 0.5


class Aim(NamedTuple):
    """A text to search for, as if it were the whole query."""

    vector: Vectors
    """``(dim,)``: its embedding."""
    words: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """A query that is ready to search with."""

    vector: Vectors
    """``(dim,)``: a unit vector, or the vector of a mixture."""
    kind: QueryKind = "text"
    left_out: tuple[Path, ...] = ()
    """Files that are never hits: the images in the query itself."""
    offset: float = 0.0
    """Added to every score (see ``fusion``)."""
    aims: tuple[Aim, ...] = ()
    """The texts to search for; the best of them decides the verdict."""
    by_example: bool = False
    """Whether the query has example images, whose nearest images are always worth showing."""
    feedback: bool = False
    """Whether images were marked good or bad."""
    of_class: int | None = None
    """The class of the domain whose images are listed instead of a search."""


def embed_each(
    collections: Sequence[Collection],
    queries: Sequence[Query],
    encoders: Encoders,
    *,
    allow_out_of_domain: bool = False,
) -> list[Embedded | ClipsearchError]:
    """Prepare queries; all their texts are embedded at once.

    The policy is checked first, before anything is computed. A refusal or an error that concerns a
    single query is returned in its place, not raised.
    """
    refusals: dict[int, Refused] = {}
    for n, query in enumerate(queries):
        try:
            for text in query.texts:
                policy.check(text)
        except Refused as refusal:
            refusals[n] = refusal
    texts = [text for n, query in enumerate(queries) if n not in refusals for text in query.texts]
    vectors = encoders.text.encode_texts(texts) if texts else np.empty((0, 0), np.float32)
    parts = _Parts(collections, encoders, dict(zip(texts, vectors, strict=True)))
    answers: list[Embedded | ClipsearchError] = []
    for n, query in enumerate(queries):
        try:
            answers.append(refusals.get(n) or parts.embedded(query, check=not allow_out_of_domain))
        except ClipsearchError as error:  # for example, a probe of another model
            answers.append(error)
    return answers


class _Parts:
    """Computes the vectors of a query's parts for these collections."""

    def __init__(
        self, collections: Sequence[Collection], encoders: Encoders, texts: dict[str, Vectors]
    ) -> None:
        self._collections = collections
        self._encoders = encoders
        self._texts = texts

    def embedded(self, query: Query, *, check: bool) -> Embedded:
        if not query.has_aim:
            raise UsageError(
                "the query has nothing to search for: --not and --unlike only say what to avoid",
                hint='For example: clipsearch search "a fruit" --not "a banana"',
            )
        for name in sorted({part.saved for part in query.parts} - {""}):
            self._require_no_probe(name)
        ingredients: list[Ingredient] = []
        left_out: list[Path] = []
        aims: list[Aim] = []
        for part, weight in zip(query.parts, _weights(query), strict=True):
            vector, kind, file = self._part(part)
            if check and isinstance(part, Text) and part.role == "wanted":
                check_domain(self._collections, part.text, vector)
            if isinstance(part, Text) and part.role == "wanted":
                aims.append(Aim(vector, len(part.text.split())))
            if file is not None and part.role != "good":
                left_out.append(file)
            ingredients.append(Ingredient(vector, kind, weight))
        vector, offset, kind = ingredients[0].vector, 0.0, ingredients[0].kind
        if len(ingredients) > 1:
            vector, offset, kind = mix(ingredients, self._scale())
        return Embedded(
            vector,
            kind,
            tuple(left_out),
            offset,
            aims=tuple(aims),
            by_example=any(
                isinstance(part, Image | Stored) and part.role in ("wanted", "good")
                for part in query.parts
            ),
            feedback=any(part.role in ("good", "bad") for part in query.parts),
            of_class=next(
                (
                    class_index(self._collections, part.name)
                    for part in query.parts
                    if isinstance(part, Class) and part.role == "wanted"
                ),
                None,
            ),
        )

    def _part(self, part: Part) -> tuple[Vectors, QueryKind, Path | None]:
        """A part's vector ``(dim,)``, its kind, and its file, if it has one."""
        match part:
            case Text():
                return self._texts[part.text], "text", None
            case Class():
                return class_vector(self._collections, part.name, self._encoders), "text", None
            case Probe():
                return self._probe(part.name), "probe", None
            case Image():
                stores = [collection.store for collection in self._collections]
                file = Path(part.path)
                return image_vector(stores, file, self._encoders), "image", file
            case Stored(place=None):
                return self._of_the_only_one(part.id)
            case Stored():
                return self._marked(part.place or 0, part.id)

    def _of_the_only_one(self, id: int) -> tuple[Vectors, QueryKind, Path]:
        if len(self._collections) > 1:
            raise UsageError(
                f"'{id}' is an image id, but there are {len(self._collections)} indexed folders "
                "here",
                hint="Give the path of the image, or choose the folder with --under FOLDER.",
            )
        store = self._collections[0].store
        with suppress(KeyError, OverflowError):
            return store.vector(id), "image", store.path_of(id)
        raise UsageError(
            f"there is no image {id} in the index of {store.root}",
            hint="Use an id that --json prints.",
        )

    def _marked(self, place: int, id: int) -> tuple[Vectors, QueryKind, Path]:
        try:
            store = self._collections[place].store
            return store.vector(id), "image", store.path_of(id)
        except (LookupError, OverflowError) as error:
            raise UsageError(
                "a marked image is no longer in the index",
                hint="Remove its mark, or start over.",
            ) from error

    def _probe(self, name: str) -> Vectors:
        if len(self._collections) > 1:
            raise UsageError(
                f"'@{shortened(name)}' is not a saved query, and could be a probe in any of the "
                f"{len(self._collections)} indexed folders here",
                hint="Say which one you mean with --under FOLDER.",
            )
        return probes.query(self._collections[0].store, name)

    def _require_no_probe(self, name: str) -> None:
        """Raise UsageError if a saved query's name could also mean a probe."""
        for collection in self._collections:
            if name in probes.names(collection.store):
                raise UsageError(
                    f"'@{name}' is both a saved query and a probe of {collection.store.root}",
                    hint=f"For the probe, use @{name}/CLASS. For the query, save it under another "
                    f"name and remove this one: clipsearch query remove {name}",
                )

    def _scale(self) -> Scale:
        scales = [collection.scale for collection in self._collections]
        whole = [scale for scale in scales if scale is not None]
        if not whole:
            raise IndexUnreadable(
                "this index lacks the measurements that a query of several parts needs",
                hint="Run: clipsearch index FOLDER (no image is embedded again).",
            )
        return Scale.pooled(whole)


def _weights(query: Query) -> list[float]:
    """The weight of each part, with the sign of its role."""
    alone = not any(part.role == "wanted" for part in query.parts)
    of_role = {
        "wanted": 1.0,
        "unwanted": -_UNWANTED,
        # Without other parts, the good images are the query.
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


def image_vector(stores: Sequence[Store], image: Path, encoders: Encoders) -> Vectors:
    """The embedding of an image, ``(dim,)``: a stored one if a collection has its content.

    Raises UsageError if the file cannot be read as an image.
    """
    from clipsearch.images import pool  # here, since a text query needs no other processes

    try:
        vector = _stored_vector(stores, image)
        if vector is None:
            path = os.fsencode(os.path.abspath(image))
            picture = pool.decoded(path, stores[0].spec.preprocessing)
            vector = encoders.both.encode_images(picture.pixels[np.newaxis])[0]
    except OSError as error:
        raise UsageError(
            f"cannot read {image}: {error.strerror}",
            hint=weight_note(os.fspath(image)) or "Give the path of an image.",
        ) from error
    except ImageError as error:
        raise UsageError(f"cannot search by {image}: {error}", hint="Use another image.") from error
    return vector


def _stored_vector(stores: Sequence[Store], image: Path) -> Vectors | None:
    require_regular(image)
    with image.open("rb") as file:
        digest = content_hash(file)
    found = (store.vector_of_content(digest) for store in stores)
    return next((vector for vector in found if vector is not None), None)


def check_domain(collections: Sequence[Collection], text: str, vector: Vectors) -> None:
    """Raise OutOfDomain if a text has nothing to do with the domain of any collection.

    vector: ``(dim,)``, its embedding.
    """
    refusals = []
    for collection in collections:
        try:
            collection.check(text, vector)
        except OutOfDomain as refusal:
            refusals.append(refusal)
    if len(refusals) == len(collections):
        raise refusals[0]


def class_index(collections: Sequence[Collection], name: str) -> int:
    """The position of a class in the domain of all these collections.

    Raises UsageError if there is no such class, or if the collections have several domains.
    """
    domain = collections[0].domain
    same = [other.domain.fingerprint == domain.fingerprint for other in collections]
    same += [other.domain.class_names == domain.class_names for other in collections]  # in order
    if not all(same):
        raise UsageError(
            "the indexed folders here have different domains",
            hint="Say which one you mean with --under FOLDER.",
        )
    index = domain.find_class(name)
    if index is None:
        raise UsageError(
            f"the domain {domain.name} has no class '{shortened(name)}'"
            f"{did_you_mean(name, domain.class_names)}",
            hint="clipsearch domain show lists its classes.",
        )
    return index


def class_vector(collections: Sequence[Collection], name: str, encoders: Encoders) -> Vectors:
    """The embedding of one of the domain's classes, ``(dim,)``, from all its prompts.

    Raises the same errors as ``class_index``.
    """
    index, texts = class_index(collections, name), collections[0].texts
    if texts is not None:
        kept: Vectors = texts.gate.classes[index]
        return kept
    domain = collections[0].domain
    only = replace(domain, classes=(domain.classes[index],))
    made: Vectors = class_embeddings(only, encoders.text)[0]
    return made
