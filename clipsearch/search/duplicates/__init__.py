"""Copies and near-duplicates: embeddings propose them, pixels confirm them.

In: a collection. Out: groups of images.
"""
