"""The small domain and its encoder, as fixtures."""

from small_domain import edited, encoder, small  # noqa: F401
