"""From a query to ranked hits, over one collection or several that share a model."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipsearch.domain.zero_shot import class_embeddings
from clipsearch.errors import ImageError, OutOfDomain, UsageError
from clipsearch.images.scan import content_hash
from clipsearch.paths import absolute, require_regular
from clipsearch.records import EVERYTHING, Encoder, Filter, Hit, QueryKind, TextEncoder, Vectors
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.text import did_you_mean


@dataclass(frozen=True, slots=True)
class Asked:
    """A query that is ready to be searched with."""

    vector: Vectors
    """``(dim,)``: a unit vector, or that of a mixture."""
    kind: QueryKind = "text"
    left_out: tuple[Path, ...] = ()
    """Files that are no hits: the pictures that one started from."""
    offset: float = 0.0
    """Added to every score: see ``mixing``."""


def search_each(
    collections: Sequence[Collection],
    queries: Sequence[Asked],
    k: int,
    only: Filter = EVERYTHING,
    *,
    max_false_alarm: float = 1.0,
    exact: bool = False,
) -> list[list[Hit]]:
    """For each query, the ``k`` best hits of all ``collections`` together.

    ``only`` restricts it to some pictures, exactly. Hits that are more often a false alarm than
    ``max_false_alarm``, in their own collection and for this kind of query, are left out. A
    picture that several collections hold, the root of one lying in another's, is one hit; files
    that a query leaves out are none. With ``exact``, no store is searched through its clusters.
    """
    answers: list[list[Hit]] = [[] for _ in queries]
    most_left_out = max((len(asked.left_out) for asked in queries), default=0)
    vectors = np.stack([asked.vector for asked in queries])
    for collection in collections:
        found = collection.store.search_each(
            vectors, k + most_left_out, collection.restricted(only), exact=exact
        )
        for asked, hits, answer in zip(queries, found, answers, strict=True):
            least = collection.least_score(asked.kind, max_false_alarm)
            scored = [replace(hit, score=hit.score + asked.offset) for hit in hits]
            good = [hit for hit in scored if hit.score >= least and not _is_one_of(hit, asked)]
            answer += collection.judged(good, asked.kind)
    return [_ranked(answer)[:k] for answer in answers]


def search(
    collections: Sequence[Collection],
    asked: Asked,
    k: int,
    only: Filter = EVERYTHING,
    *,
    max_false_alarm: float = 1.0,
    exact: bool = False,
) -> list[Hit]:
    """The same for one query."""
    (hits,) = search_each(
        collections, [asked], k, only, max_false_alarm=max_false_alarm, exact=exact
    )
    return hits


def _ranked(hits: Sequence[Hit]) -> list[Hit]:
    """Best first, and each file once."""
    ranked: dict[bytes, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.root, hit.id)):
        ranked.setdefault(absolute(os.fsencode(hit.root), hit.path), hit)
    return list(ranked.values())


def nearest_classes(collections: Sequence[Collection], hits: Sequence[Hit]) -> list[str | None]:
    """The class nearest to each hit's picture, by its own collection's domain, where known."""
    nearest = {
        collection.store.root: collection.nearest_classes(
            [hit.id for hit in hits if hit.root == collection.store.root]
        )
        for collection in collections
    }
    return [nearest[hit.root].get(hit.id) for hit in hits]


def image_vector(
    stores: Sequence[Store], image: Path, load_encoder: Callable[[], Encoder]
) -> Vectors:
    """The embedding of a picture, ``(dim,)``: a stored one if a collection has its content.

    Raises UsageError if the file cannot be read as a picture.
    """
    from clipsearch.images import decode  # here, since no text query needs its decoders

    try:
        vector = _stored_vector(stores, image)
        if vector is None:
            decoded = decode.decode(os.fspath(image), stores[0].spec.preprocessing)
            vector = load_encoder().encode_images(decoded.pixels[np.newaxis])[0]
    except OSError as error:
        raise UsageError(
            f"cannot read {image}: {error.strerror}", hint="Name a picture."
        ) from error
    except ImageError as error:
        raise UsageError(
            f"cannot search by {image}: {error}", hint="Name another picture."
        ) from error
    return vector


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
            f"the domain {domain.name} has no class '{name}'"
            f"{did_you_mean(name, domain.class_names)}",
            hint="clipsearch domain show lists its classes.",
        )
    return index


def class_vector(
    collections: Sequence[Collection], name: str, load_encoder: Callable[[], TextEncoder]
) -> Vectors:
    """The embedding of one of the domain's classes, ``(dim,)``, made of all its prompts.

    Raises UsageError as ``class_index`` does.
    """
    index, texts = class_index(collections, name), collections[0].texts
    if texts is not None:
        classes = texts.gate.classes
    else:
        domain = collections[0].domain
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


def _is_one_of(hit: Hit, asked: Asked) -> bool:
    """Whether a hit is a file that the query leaves out."""
    if not asked.left_out:
        return False
    path = absolute(os.fsencode(hit.root), hit.path)
    for file in asked.left_out:
        with suppress(OSError):
            if os.path.samefile(path, os.fsencode(file)):
                return True
    return False
