"""The one flow from queries to answers: for one text, for a batch, for ``browse``, for Python.

``embed`` makes each query one vector, after the policy and the domain have let it pass; ``rank``
gathers, judges and cuts the hits of all collections.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from clipsearch.domain import policy
from clipsearch.errors import ClipsearchError
from clipsearch.models.load import Encoders
from clipsearch.records import Hit
from clipsearch.search.embed import class_index, embed_each
from clipsearch.search.explain import explain
from clipsearch.search.judge import Judgment
from clipsearch.search.query import Query, SearchOptions, weight_note
from clipsearch.search.rank import rank_each
from clipsearch.storage.collection import Collection


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one query, and what is to be known of it."""

    hits: list[Hit]
    """Best first."""
    judgment: Judgment = field(default_factory=Judgment)
    """The verdict, and what it was found by."""
    matching: int = 0
    """How many images match, of which ``hits`` are the best ``k``; up to 10,000 are counted."""
    nearest: Sequence[Hit] = ()
    """The best few images, if there are no hits because none is good enough."""
    classes: tuple[str | None, ...] = ()
    """Of each hit, where they were asked for: the class of the domain nearest to its image."""
    notes: tuple[str, ...] = ()
    """What is to be known of the query, a line each."""
    calibrated: bool = True
    """Whether it is known what scores mean in all collections; if not, there is no verdict."""
    explanation: tuple[str, ...] = ()
    """Why the answer is what it is, a line each, where that was asked for."""
    nothing_passes: bool = False
    """Whether there are no hits because no image passes the filters."""

    @property
    def rejected(self) -> Hit | None:
        """The best image, if there are no hits because it is not good enough."""
        return next(iter(self.nearest), None)


def answer(
    collections: Sequence[Collection],
    query: Query,
    options: SearchOptions,
    encoders: Encoders,
) -> Answer:
    """Answer one query over collections that share a model.

    Raises RefusedByPolicy, before anything is computed, OutOfDomain, and NotTested where only
    tested collections will do; UsageError for what cannot be looked for; ModelError.
    """
    (found,) = answer_each(collections, [query], options, encoders)
    if isinstance(found, ClipsearchError):
        raise found
    return found


def answer_each(
    collections: Sequence[Collection],
    queries: Sequence[Query],
    options: SearchOptions,
    encoders: Encoders,
) -> list[Answer | ClipsearchError]:
    """Answer each query, with all their texts embedded at once.

    What concerns one query alone is its answer; raised are NotTested, UsageError for a class that
    the domain does not have, and ModelError.
    """
    if options.require_tested:
        for collection in collections:
            collection.require_tested()
    if options.strict or options.require_tested:
        for collection in collections:
            collection.require_calibrated()
    options = _with_class(collections, options)
    embedded = embed_each(
        collections, queries, encoders, allow_out_of_domain=options.allow_out_of_domain
    )
    ready = [one for one in embedded if not isinstance(one, ClipsearchError)]
    rankings = iter(rank_each(collections, ready, options))
    calibrated = all(collection.is_calibrated for collection in collections)
    answers: list[Answer | ClipsearchError] = []
    for query, one in zip(queries, embedded, strict=True):
        if isinstance(one, ClipsearchError):
            answers.append(one)
            continue
        ranking = next(rankings)
        hits, nearest = ranking.hits, ranking.nearest
        answers.append(
            Answer(
                hits,
                ranking.judgment,
                ranking.matching,
                nearest,
                classes=_nearest_classes(collections, hits) if options.classes else (),
                notes=notes(query),
                calibrated=calibrated,
                explanation=explain(query, one, ranking, collections) if options.explain else (),
                # What is left out as the query itself may be all that passes.
                nothing_passes=not (hits or nearest or one.left_out) and options.is_filtered,
            )
        )
    return answers


def newest(collections: Sequence[Collection], options: SearchOptions) -> Answer:
    """The ``options.k`` images taken last that pass the filters, where nothing is looked for.

    Raises UsageError for a class that the domain does not have.
    """
    options = _with_class(collections, options)
    found: list[tuple[str, Hit]] = []
    matching = 0
    for collection in collections:
        only = collection.restricted(options.only)
        found += collection.store.newest(options.k, only)
        matching += collection.store.count(only)
    found.sort(key=lambda dated: dated[0], reverse=True)
    hits = [hit for _, hit in found[: options.k]]
    return Answer(
        hits,
        matching=matching,
        classes=_nearest_classes(collections, hits) if options.classes else (),
        nothing_passes=not hits and options.is_filtered,
    )


def notes(query: Query) -> tuple[str, ...]:
    """What is to be known of a query before it is answered, a line each."""
    told = (policy.language_note, weight_note)
    return tuple(note for text in query.texts for tell in told if (note := tell(text)))


def _with_class(collections: Sequence[Collection], options: SearchOptions) -> SearchOptions:
    """The class that images must be of as a part of the filter. Raises UsageError."""
    if not options.class_name:
        return options
    of_class = class_index(collections, options.class_name)
    return replace(options, only=replace(options.only, of_class=of_class))


def _nearest_classes(
    collections: Sequence[Collection], hits: Sequence[Hit]
) -> tuple[str | None, ...]:
    """The class nearest to each hit's image, by its own collection's domain, where known."""
    nearest = {
        collection.store.root: collection.nearest_classes(
            [hit.id for hit in hits if hit.root == collection.store.root]
        )
        for collection in collections
    }
    return tuple(nearest[hit.root].get(hit.id) for hit in hits)
