"""The index on disk: a SQLite catalog, the source of truth, and a FAISS file derived from it.

In: embedded images, filters, query vectors. Out: rows, hits, and facts about a collection.
Readers always work and never see half a batch; one process writes at a time.
"""
