"""Values of options that the shell completes when the user presses Tab.

No model is loaded, and errors are silent: a user who presses Tab expects no error message.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.errors import ClipsearchError

if TYPE_CHECKING:
    from clipsearch.storage.catalog import Store


def models(incomplete: str) -> list[str]:
    """Names for --model; folders are left to the shell."""
    from clipsearch.models import registry

    return _those([registry.POCKET, *registry.architectures()], incomplete)


def devices(incomplete: str) -> list[str]:
    """Names for --device."""
    return _those(["auto", "cpu", "cuda", "mps"], incomplete)


def types(incomplete: str) -> list[str]:
    """Names for --type."""
    from clipsearch.images.scan import SUFFIXES

    return _those((os.fsdecode(suffix)[1:] for suffix in SUFFIXES), incomplete)


def domains(incomplete: str) -> list[str]:
    """Names for --domain; files are left to the shell."""
    from clipsearch.domain import taxonomy

    return _those(taxonomy.shipped(), incomplete)


def classes(incomplete: str) -> list[str]:
    """Names for --class: the classes of the domain of the index here, or of the default domain."""
    from clipsearch.domain import taxonomy

    with suppress(ClipsearchError, OSError):
        store = _store()
        if store is not None:
            from clipsearch.storage.collection import Collection

            with store:
                return _those(Collection(store).domain.class_names, incomplete)
    return _those(taxonomy.load(taxonomy.DEFAULT).class_names, incomplete)


def topics(incomplete: str) -> list[str]:
    """The pages of ``clipsearch help``."""
    from clipsearch.cli.help import pages

    return _those(pages(), incomplete)


def probes(incomplete: str) -> list[str]:
    """Names of the probes in the index here."""
    return _those(_probes(), incomplete)


def saved_queries(incomplete: str) -> list[str]:
    """Names of the saved queries."""
    return _those(_saved_queries(), incomplete)


def marked_names(incomplete: str) -> list[str]:
    """Saved queries and probes, with the ``@`` that marks them in a query."""
    if not incomplete.startswith("@"):
        return []
    return _those((f"@{name}" for name in [*_saved_queries(), *_probes()]), incomplete)


def is_asked_by_bash() -> bool:
    """Whether bash called the program for a completion."""
    return os.environ.get("_CLIPSEARCH_COMPLETE", "").endswith("bash")


def join_marked_word() -> None:
    """Rejoin ``@`` and a name, which bash splits into two words but replaces as one."""
    at = int(os.environ.get("COMP_CWORD") or 0)
    words = os.environ.get("COMP_WORDS", "").split("\n")
    if 1 < at < len(words) and words[at - 1] == "@":
        words[at - 1 : at + 1] = ["@" + words[at]]
        os.environ.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(at - 1))


def _probes() -> list[str]:
    with suppress(ClipsearchError, OSError):
        store = _store()
        if store is not None:
            from clipsearch.evaluation import probes

            with store:
                return probes.names(store)
    return []


def _saved_queries() -> list[str]:
    from clipsearch.search import saved

    with suppress(ClipsearchError):
        return list(saved.everything())
    return []


def _store() -> "Store | None":
    """The index around the current folder."""
    from clipsearch.storage import known
    from clipsearch.storage.catalog import Store

    directory = known.holding(Path().resolve())
    return Store.open(directory) if directory else None


def _those(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that start with ``incomplete``, sorted."""
    found = sorted(name for name in set(names) if name.startswith(incomplete))
    return [name.replace(" ", "\\ ") for name in found] if is_asked_by_bash() else found
