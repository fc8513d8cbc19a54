"""Images that are the same or nearly the same: embeddings propose, pixels confirm.

In: a collection. Out: groups of images.
"""
