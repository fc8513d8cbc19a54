"""What an index knows about its own answers: its domain, its calibration and its tests.

Stored with the index as attachments, each read only when a command needs it::

    domain        the pinned Domain
    texts         embeddings of the domain's classes, its examples and the background prompts
    calibration   scores of background queries: for verdicts, and for false-alarm rates of hits
    scale         how parts of a query are brought to one scale (see ``domain.scale``)
    evaluation    the last ``evaluate``; separate ones for several labels and for captions
    likeness      what near-duplicates are like (see ``search.duplicates.likeness``)
    probe:NAME    a linear probe (see ``evaluation.probes``)

Each states which model, domain or state of the collection it was made for, and is ignored for any
other.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from clipsearch.domain import taxonomy
from clipsearch.domain.calibration import FalseAlarms, Precision
from clipsearch.domain.scale import Scale
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.verdict import Background
from clipsearch.domain.words import Vocabulary
from clipsearch.domain.zero_shot import LOGIT_SCALE
from clipsearch.errors import IndexUnreadable, NotTested
from clipsearch.records import EVERYTHING, Filter, Hit, QueryKind, Tested, TextEncoder, Vectors
from clipsearch.storage import evaluations
from clipsearch.storage.calibration import Calibration, background_of, measure
from clipsearch.storage.catalog import Store
from clipsearch.storage.evaluations import Evaluation
from clipsearch.storage.texts import Texts, embedded_texts
from clipsearch.text import number_of, printable

_MADE_AGAIN = ("texts", "calibration", "scale")
"""The attachments that ``calibrate`` makes."""

_SUBSET = 5_000
"""If a filter accepts at most this many images, they are measured separately, in 0.1 s."""


@dataclass(frozen=True, slots=True)
class Level:
    """What the scores of text queries are compared with, over the images that are searched."""

    images: int
    """How many images there are, at least one."""
    mean: Vectors
    """``(dim,)``: the mean embedding; its product with a query is the query's mean score."""
    centre: Vectors
    """``(dim,)``: the mean embedding of the background prompts."""
    background: Background


class Collection:
    """What one index knows about its answers."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def domain(self) -> Domain:
        """The pinned domain, or else the default one."""
        text = self.store.attachment("domain")
        if text is None:
            return taxonomy.load(taxonomy.DEFAULT)
        try:
            return Domain.from_json(text)
        except evaluations.DAMAGED as error:  # a substitute would mislead
            raise IndexUnreadable(
                f"the domain in the index at {self.store.directory} is damaged",
                hint="Set it again: clipsearch index FOLDER --domain FILE|NAME",
            ) from error

    @cached_property
    def texts(self) -> Texts | None:
        """The domain's embedded texts; None before the first ``calibrate``."""
        data = self.store.attachment("texts")
        texts = Texts.from_bytes(self.domain, data) if data else None
        return texts if texts is not None and texts.dim == self.store.spec.dim else None

    @cached_property
    def scale(self) -> Scale | None:
        """How parts of a query are brought to one scale; None before the first ``calibrate``."""
        data = self.store.attachment("scale")
        try:
            scale = Scale.from_bytes(data) if data else None
        except Exception:  # zipfile and numpy raise many kinds of errors
            return None
        return scale if scale is not None and scale.dim == self.store.spec.dim else None

    @cached_property
    def calibration(self) -> Calibration | None:
        """What scores mean with this domain; None before the first ``calibrate``."""
        text = self.store.attachment("calibration")
        with suppress(ValueError):  # the next run of index makes it again
            found = Calibration.from_json(text) if text else None
            return found if found and found.domain == self.domain.fingerprint else None
        return None

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The last readable one of each kind of test set, for this model and this domain."""
        own = (self.store.spec.fingerprint, self.domain.fingerprint)
        return [
            found for found in evaluations.kept(self.store) if (found.model, found.domain) == own
        ]

    @property
    def evaluation(self) -> Evaluation | None:
        """The one that decides: a failed one, if the domain has pass marks for its kind.

        Captions cannot fail a domain that has pass marks only for labels.
        """
        decisive = [found for found in self.evaluations if found.is_about(self.domain.pass_marks)]
        failed = [found for found in decisive if found.shortfalls]
        return next(iter([*failed, *decisive, *self.evaluations]), None)

    @property
    def tested(self) -> Tested:
        """Whether the last evaluation met the pass marks."""
        if self.evaluation is None:
            return "untested"
        return "failed" if self.evaluation.shortfalls else "tested"

    @property
    def logit_scale(self) -> float:
        """The factor for similarities to classes, as the last evaluation measured it."""
        scales = (found.logit_scale for found in self.evaluations)
        return next((scale for scale in scales if scale is not None and scale > 0), LOGIT_SCALE)

    def require_tested(self) -> None:
        """Raise NotTested unless the last evaluation met the pass marks."""
        if self.tested != "tested":
            raise NotTested(
                f"the index of {self.store.root} is {self.tested} on the domain {self.domain.name}",
                hint="Test it on labeled images: clipsearch evaluate LABELED"
                if self.evaluation is None
                else "Not met: " + "; ".join(map(str, self.evaluation.shortfalls)),
            )

    @property
    def is_calibrated(self) -> bool:
        """Whether the meaning of scores was measured; False before the first ``calibrate``."""
        return self.calibration is not None and self.calibration.is_whole

    def require_calibrated(self) -> None:
        """Raise NotTested before the first ``calibrate``: the meaning of scores is unknown."""
        if not self.is_calibrated:
            raise NotTested(
                f"the index of {self.store.root} is not calibrated yet, so no match can be strong",
                hint="Let clipsearch index FOLDER finish; it does not embed images again.",
            )

    def check(self, query: str, vector: Vectors) -> None:
        """Raise OutOfDomain if a text query has nothing to do with the domain.

        vector: ``(dim,)``, its embedding. Before the first ``calibrate``, everything passes.
        """
        # Most queries name a class, and do not need the embedded texts, which take longer to read.
        if not self._vocabulary.classes_named(query) and self.texts is not None:
            self.texts.gate.check(query, vector)

    def restricted(self, only: Filter) -> Filter:
        """The filter with its class replaced by the ids of that class's images.

        An image's class is the best one in zero-shot classification. Raises IndexUnreadable
        before the first ``calibrate``.
        """
        if only.of_class is None:
            return only
        if self.texts is None:
            raise IndexUnreadable(
                f"the classes of the index of {self.store.root} are not embedded yet",
                hint="Embed them with: clipsearch index FOLDER (no image is embedded again).",
            )
        classes = self.texts.gate.classes
        ids = [
            ids[(vectors.astype(np.float32) @ classes.T).argmax(axis=1) == only.of_class]
            for ids, vectors in self.store.embeddings()
        ]
        return replace(only, of_class=None, ids=frozenset(np.concatenate([*ids, []]).tolist()))

    def level(self, only: Filter = EVERYTHING) -> Level | None:
        """What scores are compared with; None before the first ``calibrate``, or without images.

        only: a filter from ``restricted``. If it accepts few images, they are measured
        separately, because fewer images reach lower scores; if many, the whole is used.
        """
        scale, calibration = self.scale, self.calibration
        if scale is None or calibration is None or calibration.background is None:
            return None
        whole = Level(
            scale.images, scale.means["image"], scale.means["text"], calibration.background
        )
        if only == EVERYTHING or self.texts is None:
            return whole
        with self.store.snapshot():
            ids = self.store.ids(only)
            if len(ids) > _SUBSET:
                return whole
            if not len(ids):
                return None
            vectors = self.store.vectors(ids.tolist())
        background = background_of(self.domain, self.texts, [vectors.astype(np.float16)])
        return Level(len(ids), vectors.mean(axis=0), whole.centre, background)

    def false_alarms(self, kind: QueryKind) -> FalseAlarms | None:
        """How often background queries reach a score; None before the first ``calibrate``."""
        return self._false_alarms.get(kind)

    def judged(self, hits: Sequence[Hit], kind: QueryKind, only: Filter = EVERYTHING) -> list[Hit]:
        """Hits with all that is known about their scores. only: the filter that accepted them."""
        scores = [hit.score for hit in hits]
        alarms = self.false_alarms(kind)
        precision = self._precision if kind == "text" and only == EVERYTHING else None
        rates = alarms.rate(scores).tolist() if alarms else [None] * len(hits)
        right = precision.probability(scores).tolist() if precision else [None] * len(hits)
        return [
            replace(
                hit,
                false_alarm=rate,
                precision=p,
                domain=self.domain.name,
                tested=self.tested,
                calibrated=self.is_calibrated,
            )
            for hit, rate, p in zip(hits, rates, right, strict=True)
        ]

    def nearest_classes(self, ids: Sequence[int]) -> dict[int, str]:
        """The domain's class whose embedding is nearest to each image's (zero-shot), by id.

        Empty before the first ``calibrate``; images that were removed are left out.
        """
        if self.texts is None:
            return {}
        vectors = {}
        for id in ids:
            with suppress(KeyError):
                vectors[id] = self.store.vector(id)
        if not vectors:
            return {}
        nearest = np.argmax(np.stack(list(vectors.values())) @ self.texts.gate.classes.T, axis=1)
        names = self.domain.class_names
        return {id: names[index] for id, index in zip(vectors, nearest, strict=True)}

    @cached_property
    def _precision(self) -> Precision | None:
        """How often a text's hit is right, if that was measured on this collection itself."""
        found = self.evaluation
        if found is None or found.precision is None or not found.was_of(self.store.ids()):
            return None
        return found.precision

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.domain)

    @cached_property
    def _false_alarms(self) -> Mapping[QueryKind, FalseAlarms]:
        return self.calibration.false_alarms() if self.calibration else {}


def pin(store: Store, domain: Domain) -> None:
    """Make a domain the index's own. Measurements for another domain no longer count."""
    with store.batch():
        store.attach("domain", domain.to_json())


def carry_over(old: Store, new: Store) -> None:
    """Copy to a rebuilt index what it cannot make again: the domain, the evaluation, the probes.

    An evaluation or a probe states its model, and is ignored if the model has changed.
    """
    with new.batch():
        for name in old.attached(""):
            if name not in _MADE_AGAIN:
                new.attach(name, old.attachment(name))


def calibrate(store: Store, load_encoder: Callable[[], TextEncoder]) -> bool:
    """Measure what scores mean in the collection now; return False if that was not needed.

    The collection is searched for background prompts, which have nothing to do with the domain,
    and for a sample of its own images; their best scores are stored. A large collection is not
    measured again until 5% of its images have changed. The texts are embedded once per model and
    domain.
    """
    known, images = Collection(store), store.count_newer()
    domain, texts, before = known.domain, known.texts, known.calibration
    scaled = known.scale is not None or not images
    if (
        (texts and before and before.is_whole and scaled)  # a count reads the whole catalog
        and not before.is_outdated(images, store.count_newer(before.newest))
    ):
        return False
    if texts is None:
        texts = embedded_texts(domain, store.spec, load_encoder)
    found, scale = measure(store, domain, texts)
    with store.batch():
        store.attach("domain", domain.to_json())
        store.attach("texts", texts.to_bytes(domain))
        store.attach("calibration", found.to_json())
        if scale is not None:
            store.attach("scale", scale.to_bytes())
    return True


def tested_line(collection: Collection) -> str:
    """One line that says whether the answers about a collection were tested."""
    domain, found = printable(collection.domain.name), collection.evaluation
    if found is None:
        return f"untested on the domain {domain}; test it with: clipsearch evaluate LABELED"
    how = f"with {number_of(found.images, 'image')} on {printable(found.made_at[:10])}"
    if found.shortfalls:
        missed = printable("; ".join(map(str, found.shortfalls)))
        return f"failed the tests of the domain {domain} {how}: {missed}"
    return f"tested on the domain {domain} {how}"
