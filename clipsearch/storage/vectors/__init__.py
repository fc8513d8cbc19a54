"""The embeddings of a collection, and the search for the nearest of them.

``embeddings`` holds the catalog's table of them; ``vector_file`` keeps what is derived from it in
one file, which ``flat_index`` searches exactly and ``clusters`` searches in part.
"""
