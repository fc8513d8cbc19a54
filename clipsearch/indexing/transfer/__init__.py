"""Embeddings to and from other programs, in the layout of clip-retrieval.

In goes a collection, out comes a folder of arrays and metadata (``export``); or the other way
round (``import_``). ``layout`` reads and writes the files themselves.
"""
