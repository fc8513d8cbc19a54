"""Everything that can go wrong, and the exit code that each outcome has.

::

    ClipsearchError
    ├── UsageError               the command line asks for something that cannot be done
    ├── ImageError               one image cannot be read or decoded
    ├── ModelError               a model cannot be used
    │   ├── UnknownModel         no such architecture, tag, file or folder
    │   ├── WeightsNotFound      the model is known, but its weights are not on this machine
    │   ├── BadCheckpoint        weights or configuration that do not make a working model
    │   └── DeviceError          the device that was asked for is not there, or gave up
    ├── StoreError               an index cannot be used
    │   ├── IndexNotFound        no index where one was looked for
    │   ├── IndexExists          another process has made the index that was to be made
    │   ├── IndexLocked          another process is writing to the index
    │   ├── IndexUnreadable      not an index, damaged, or written by a newer clipsearch
    │   │   └── IndexDamaged     the catalog is damaged; index --rebuild saves what can be read
    │   ├── ModelMismatch        the index was made with another model
    │   └── CollectionGone       the images are not where the index says (an unmounted disk?)
    ├── ClusterError             a Ray cluster cannot be used, or one of its nodes
    ├── ExchangeError            an export cannot be written, or is not what it should be
    ├── DomainError              a domain or a test set cannot be used
    │   ├── BadDomain            a domain file with something wrong in it
    │   ├── BadLabels            a labelled set with something wrong in it
    │   ├── TooFewExamples       too little to measure or to calibrate anything with
    │   └── NothingLearned       a probe that is no better than guessing, or than words alone
    └── Refused                  understood, and not done: exit code 3
        ├── RefusedByPolicy      asks to identify, verify or track people
        ├── OutOfDomain          a query that has nothing to do with the domain
        └── NotTested            the index is not tested, and only a tested one will do

Every error carries one sentence that says what is wrong and, as ``hint``, the next step.
Only the command line catches the root of this tree, and ``web.server``, which answers each request.
"""

from enum import IntEnum
from typing import Literal

from clipsearch.text import shortened

FailureKind = Literal["content", "pixels", "time", "memory", "crash"]
"""Why an image cannot be decoded: what is in the file, a limit, or what became of the decoder."""

_MOST = 1000
"""Characters of a message or a hint: what is repeated in it may be as long as a file."""


class ExitCode(IntEnum):
    """What the process returns to its caller."""

    OK = 0
    """There are hits; or the collection is up to date."""
    NO_MATCH = 1
    """Searched well, and nothing matches."""
    ERROR = 2
    """Anything that went wrong."""
    REFUSED = 3
    """Refused by the domain or by the usage policy."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C or SIGTERM; what was committed is kept."""


class ClipsearchError(Exception):
    """The root of the tree: a message for people, and the next step as ``hint``."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(shortened(message, _MOST))
        self.hint = shortened(hint, _MOST)


class UsageError(ClipsearchError):
    """The command line asks for something that cannot be done."""


class ImageError(ClipsearchError):
    """One image cannot be read or decoded; the message is the reason, without the path."""

    def __init__(self, message: str, *, kind: FailureKind = "content", pixels: int = 0) -> None:
        """``pixels``: of an image that has too many of them."""
        super().__init__(message)
        self.kind: FailureKind = kind
        self.pixels = pixels


class ModelError(ClipsearchError):
    """A model cannot be used."""


class UnknownModel(ModelError):
    """There is no such architecture, tag, file or folder."""


class WeightsNotFound(ModelError):
    """The model is known, but its weights are not on this machine."""


class BadCheckpoint(ModelError):
    """Weights or a configuration that do not make a working model."""


class DeviceError(ModelError):
    """The device that was asked for is not there, or gave up."""


class StoreError(ClipsearchError):
    """An index cannot be used."""


class IndexNotFound(StoreError):
    """There is no index where one was looked for."""


class IndexExists(StoreError):
    """Another process has made the index that was to be made."""


class IndexLocked(StoreError):
    """Another process is writing to the index."""


class IndexUnreadable(StoreError):
    """Not an index, a damaged one, or one written by a newer clipsearch."""


class IndexDamaged(IndexUnreadable):
    """The catalog is damaged; ``index --rebuild`` saves what can be read of it."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="Save what can be read of it, and index the rest again: "
            "clipsearch index FOLDER --rebuild",
        )


class ModelMismatch(StoreError):
    """The index was made with another model than the one at hand."""


class CollectionGone(StoreError):
    """The images are not where the index says they are."""


class ClusterError(ClipsearchError):
    """A Ray cluster cannot be used: it is not there, another version, or a node lacks something."""


class ExchangeError(ClipsearchError):
    """An export of embeddings cannot be written, or is not what it should be."""


class DomainError(ClipsearchError):
    """A domain or a test set cannot be used."""


class BadDomain(DomainError):
    """A domain file with something wrong in it; the message names the file and the place."""


class BadLabels(DomainError):
    """A labelled set with something wrong in it; the message names the file and the line."""


class TooFewExamples(DomainError):
    """Too little to measure or to calibrate anything with."""


class NothingLearned(DomainError):
    """A probe that is no better than guessing, or worse than its words alone."""


class Refused(ClipsearchError):
    """Understood, and not done; the process ends with ``ExitCode.REFUSED``."""


class RefusedByPolicy(Refused):
    """A text that asks to identify, verify or track people, or to recognise faces."""


class OutOfDomain(Refused):
    """A text query that has nothing to do with the domain."""


class NotTested(Refused):
    """The index has not met its domain's pass marks, and only a tested one will do."""
