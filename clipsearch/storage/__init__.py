"""The index on disk: a SQLite catalog that is the truth, and a FAISS file derived from it.

In: embedded images, filters, query vectors. Out: rows, hits, and what is known of a collection.
Readers never fail and never see half a batch; one process writes at a time.
"""
