"""Renders results as tables, lines and JSON, and draws progress."""
