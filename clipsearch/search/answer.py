"""The one flow from queries to answers: for one text, for a batch, for ``browse``, for Python.

``embed`` turns each query into one vector, after the policy and the domain have accepted it;
``rank`` gathers, judges and cuts the hits of all collections.
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
    """What was found for one query, with its verdict and notes."""

    hits: list[Hit]
    """Best first."""
    judgment: Judgment = field(default_factory=Judgment)
    """The verdict, and the measurements behind it."""
    matching: int = 0
    """How many images match, of which ``hits`` are the best ``k``; up to 10,000 are counted."""
    nearest: Sequence[Hit] = ()
    """The best few images, if there are no hits because no image is good enough."""
    classes: tuple[str | None, ...] = ()
    """For each hit, if requested, the class of the domain nearest to its image."""
    notes: tuple[str, ...] = ()
    """Remarks about the query, one per line."""
    calibrated: bool = True
    """Whether all collections are calibrated; if not, there is no verdict."""
    explanation: tuple[str, ...] = ()
    """Why this is the answer, one line each, if requested."""
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

    Raises RefusedByPolicy before anything is computed, OutOfDomain, NotTested if
    ``options.require_tested`` is not met, UsageError for a query that cannot be searched, and
    ModelError.
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
    """Answer each query; all their texts are embedded at once.

    An error that concerns a single query is returned as its answer. Raises NotTested, UsageError
    for a class that the domain does not have, and ModelError.
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
                # The query image itself, which is left out, may be the only one that passes.
                nothing_passes=not (hits or nearest or one.left_out) and options.is_filtered,
            )
        )
    return answers


def newest(collections: Sequence[Collection], options: SearchOptions) -> Answer:
    """The ``options.k`` most recent images that pass the filters, without a query.

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
    """Remarks about a query before it is answered, one per line."""
    told = (policy.language_note, weight_note)
    each = (note for text in query.texts for tell in told if (note := tell(text)))
    words = [text for text in query.texts if not any(map(str.isspace, text))]
    if len(words) < 3 or len(words) < len(query.texts):
        return tuple(each)
    return (*each, f'searching for {len(words)} texts; for a phrase, quote it: "{" ".join(words)}"')


def _with_class(collections: Sequence[Collection], options: SearchOptions) -> SearchOptions:
    """Make the required class part of the filter. Raises UsageError."""
    if not options.class_name:
        return options
    of_class = class_index(collections, options.class_name)
    return replace(options, only=replace(options.only, of_class=of_class))


def _nearest_classes(
    collections: Sequence[Collection], hits: Sequence[Hit]
) -> tuple[str | None, ...]:
    """The class nearest to each hit's image in its own collection's domain, if known."""
    nearest = {
        collection.store.root: collection.nearest_classes(
            [hit.id for hit in hits if hit.root == collection.store.root]
        )
        for collection in collections
    }
    return tuple(nearest[hit.root].get(hit.id) for hit in hits)
