"""The embeddings of a collection, and the search for the nearest of them.

``embeddings`` holds the catalog's table of them. What is derived from it is one file: written by
``new_vector_file``, read and searched by ``vector_file`` with FAISS (``faiss_files``), checked by
``blocks``; ``nprobe`` says how much of a large one a search has to read.
"""
