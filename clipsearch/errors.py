"""All errors, and the exit code of each outcome.

::

    ClipsearchError
    ├── UsageError               the command line asks for something impossible
    ├── ImageError               one image cannot be read or decoded
    ├── ModelError               a model cannot be used
    │   ├── UnknownModel         no such architecture, tag, file or folder
    │   ├── WeightsNotFound      the model is known, but its weights are not on this machine
    │   ├── BadCheckpoint        the weights or configuration do not make a working model
    │   └── DeviceError          the requested device is missing, or failed
    ├── StoreError               an index cannot be used
    │   ├── IndexNotFound        there is no index at this place
    │   ├── IndexExists          another process created the index first
    │   ├── IndexLocked          another process is writing to the index
    │   ├── IndexUnreadable      not an index, damaged, or written by a newer clipsearch
    │   │   └── IndexDamaged     the catalog is damaged; index --rebuild saves what is readable
    │   ├── ModelMismatch        the index was made with another model
    │   └── CollectionGone       the images are not where the index says (an unmounted disk?)
    ├── ClusterError             a Ray cluster or one of its nodes cannot be used
    ├── ExchangeError            an export cannot be written, or is invalid
    ├── DomainError              a domain or a test set cannot be used
    │   ├── BadDomain            a domain file has an error in it
    │   ├── BadLabels            a labeled set has an error in it
    │   ├── TooFewExamples       too few examples to measure or calibrate anything
    │   └── NothingLearned       a probe is no better than guessing, or than words alone
    └── Refused                  understood, but refused: exit code 3
        ├── RefusedByPolicy      asks to identify, verify or track people
        ├── OutOfDomain          a query that has nothing to do with the domain
        └── NotTested            the index is not tested, and a tested one is required

The message of each error is one sentence that says what is wrong; ``hint`` is the next step.
Only the command line and ``web.server``, which answers each request, catch the root of this tree.
"""

from enum import IntEnum
from typing import Literal

from clipsearch.text import shortened

FailureKind = Literal["content", "pixels", "time", "memory", "crash"]
"""Why an image cannot be decoded: the file's content, a limit, or a failure of the decoder."""

_MOST = 1000
"""Characters of a message or a hint, since text quoted in it may be as long as a file."""


class ExitCode(IntEnum):
    """The exit code of the process."""

    OK = 0
    """There are hits, or the collection is up to date."""
    NO_MATCH = 1
    """The search succeeded, and nothing matches."""
    ERROR = 2
    """Anything that went wrong."""
    REFUSED = 3
    """Refused by the domain or by the usage policy."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C or SIGTERM; committed work is kept."""


class ClipsearchError(Exception):
    """The root of the tree: a message for the user, and the next step as ``hint``."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(shortened(message, _MOST))
        self.hint = shortened(hint, _MOST)


class UsageError(ClipsearchError):
    """The command line asks for something impossible."""


class ImageError(ClipsearchError):
    """One image cannot be read or decoded; the message is the reason, without the path."""

    def __init__(self, message: str, *, kind: FailureKind = "content", pixels: int = 0) -> None:
        """pixels: how many the image has, if that is too many."""
        super().__init__(message)
        self.kind: FailureKind = kind
        self.pixels = pixels


class ModelError(ClipsearchError):
    """A model cannot be used."""


class UnknownModel(ModelError):
    """No such architecture, tag, file or folder."""


class WeightsNotFound(ModelError):
    """The model is known, but its weights are not on this machine."""


class BadCheckpoint(ModelError):
    """The weights or the configuration do not make a working model."""


class DeviceError(ModelError):
    """The requested device is missing, or failed."""


class StoreError(ClipsearchError):
    """An index cannot be used."""


class IndexNotFound(StoreError):
    """There is no index at this place."""


class IndexExists(StoreError):
    """Another process created the index first."""


class IndexLocked(StoreError):
    """Another process is writing to the index."""


class IndexUnreadable(StoreError):
    """Not an index, a damaged one, or one written by a newer clipsearch."""


class IndexDamaged(IndexUnreadable):
    """The catalog is damaged; ``index --rebuild`` saves what is readable."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="Save what is readable and index the rest again: "
            "clipsearch index FOLDER --rebuild",
        )


class ModelMismatch(StoreError):
    """The index was made with a different model than the one given."""


class CollectionGone(StoreError):
    """The images are not where the index says they are."""


class ClusterError(ClipsearchError):
    """A Ray cluster is missing, has another version, or has a node that lacks something."""


class ExchangeError(ClipsearchError):
    """An export of embeddings cannot be written, or is invalid."""


class DomainError(ClipsearchError):
    """A domain or a test set cannot be used."""


class BadDomain(DomainError):
    """A domain file has an error in it; the message names the file and the place."""


class BadLabels(DomainError):
    """A labeled set has an error in it; the message names the file and the line."""


class TooFewExamples(DomainError):
    """Too few examples to measure or calibrate anything."""


class NothingLearned(DomainError):
    """A probe is no better than guessing, or worse than its words alone."""


class Refused(ClipsearchError):
    """Understood, but refused; the process exits with ``ExitCode.REFUSED``."""


class RefusedByPolicy(Refused):
    """A text that asks to identify, verify or track people, or to recognize faces."""


class OutOfDomain(Refused):
    """A text query that has nothing to do with the domain."""


class NotTested(Refused):
    """The index has not met its domain's pass marks, and a tested one is required."""
