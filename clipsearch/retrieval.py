"""From a query to ranked hits, over one collection or several that share a model."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from clipsearch.assurance import Assurance
from clipsearch.domain import policy
from clipsearch.domain.zero_shot import class_embeddings
from clipsearch.errors import ImageError, OutOfDomain, UsageError
from clipsearch.images import absolute, content_hash, require_regular
from clipsearch.names import did_you_mean
from clipsearch.records import EVERYTHING, Encoder, Filter, Hit, QueryKind, TextEncoder, Vectors
from clipsearch.store import Store


def search(
    collections: Sequence[Assurance],
    query: Vectors,
    k: int,
    only: Filter = EVERYTHING,
    *,
    kind: QueryKind = "text",
    max_false_alarm: float = 1.0,
    without: Path | None = None,
    exact: bool = False,
) -> list[Hit]:
    """The ``k`` best hits of all ``collections`` together; ``query`` is a unit vector ``(dim,)``.

    ``only`` restricts it to some pictures, exactly. Hits that are more often a false alarm than
    ``max_false_alarm``, in their own collection and for this kind of query, are left out. A
    picture that several collections hold, the root of one lying in another's, is one hit; the
    file ``without`` is none. With ``exact``, no store is searched through its clusters.
    """
    hits: list[Hit] = []
    for collection in collections:
        least = collection.least_score(kind, max_false_alarm)
        found = collection.store.search(query, k + (without is not None), only, exact=exact)
        good = [hit for hit in found if hit.score >= least and not _is_file(hit, without)]
        hits += collection.judged(good, kind)
    ranked: dict[bytes, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.root, hit.id)):
        ranked.setdefault(absolute(os.fsencode(hit.root), hit.path), hit)
    return list(ranked.values())[:k]


def image_vector(
    stores: Sequence[Store], image: Path, load_encoder: Callable[[], Encoder]
) -> Vectors:
    """The embedding of a picture, ``(dim,)``: a stored one if a collection has its content.

    Raises UsageError if the file cannot be read as a picture.
    """
    from clipsearch import decoding  # here, since no text query needs its decoders

    try:
        vector = _stored_vector(stores, image)
        if vector is None:
            decoded = decoding.decode(os.fspath(image), stores[0].spec.preprocessing)
            vector = load_encoder().encode_images(decoded.pixels[np.newaxis])[0]
    except OSError as error:
        raise UsageError(
            f"cannot read {image}: {error.strerror}", hint="--image takes a picture."
        ) from error
    except ImageError as error:
        raise UsageError(
            f"cannot search by {image}: {error}", hint="--image takes a picture."
        ) from error
    return vector


def text_vector(
    collections: Sequence[Assurance],
    text: str,
    load_encoder: Callable[[], TextEncoder],
    *,
    allow_out_of_domain: bool = False,
) -> Vectors:
    """The embedding of a text query, ``(dim,)``.

    Raises RefusedByPolicy before anything is computed, and OutOfDomain if the query has nothing
    to do with the domain of any collection.
    """
    policy.check(text)
    vector: Vectors = load_encoder().encode_texts([text])[0]
    if not allow_out_of_domain:
        refusals = []
        for collection in collections:
            try:
                collection.check(text, vector)
            except OutOfDomain as refusal:
                refusals.append(refusal)
        if len(refusals) == len(collections):
            raise refusals[0]
    return vector


def class_vector(
    collections: Sequence[Assurance], name: str, load_encoder: Callable[[], TextEncoder]
) -> Vectors:
    """The embedding of one of the domain's classes, ``(dim,)``, made of all its prompts.

    Raises UsageError if there is no such class, or if the collections have several domains.
    """
    domain = collections[0].domain
    if any(other.domain.fingerprint != domain.fingerprint for other in collections):
        raise UsageError(
            "the indexed folders here have different domains",
            hint="Say which one you mean with --under FOLDER.",
        )
    index = domain.find_class(name)
    if index is None:
        raise UsageError(
            f"the domain {domain.name} has no class '{name}'"
            f"{did_you_mean(name, domain.class_names)}",
            hint="clipsearch domain show lists its classes.",
        )
    texts = collections[0].texts
    if texts is not None:
        classes = texts.gate.classes
    else:
        only = replace(domain, classes=(domain.classes[index],))
        classes = class_embeddings(only, load_encoder())
        index = 0
    vector: Vectors = classes[index]
    return vector


def _stored_vector(stores: Sequence[Store], image: Path) -> Vectors | None:
    require_regular(image)
    with image.open("rb") as file:
        digest = content_hash(file)
    for store in stores:
        for id, _ in store.find_content(digest):
            with suppress(KeyError):  # removed a moment ago
                return store.vector(id)
    return None


def _is_file(hit: Hit, file: Path | None) -> bool:
    if file is None:
        return False
    try:
        return os.path.samefile(absolute(os.fsencode(hit.root), hit.path), os.fsencode(file))
    except OSError:
        return False
