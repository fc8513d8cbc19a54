"""Find images in local folders by text or by example, on one machine.

``clipsearch.index``, ``clipsearch.open`` and the objects that they return are the Python API: see
``clipsearch.api``. Importing this package imports nothing else until a name is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.api import Collection, Hits, index, open

__version__ = "0.1.0"

__all__ = ["Collection", "Hits", "index", "open"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'clipsearch' has no attribute '{name}'")
    from clipsearch import api

    return getattr(api, name)
