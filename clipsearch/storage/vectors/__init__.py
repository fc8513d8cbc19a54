"""The embeddings of a collection, and nearest-neighbor search over them.

``embeddings`` reads the catalog's table of them. One file is derived from it: ``new_vector_file``
writes it, ``vector_file`` reads and searches it with FAISS (``faiss_files``), and ``blocks`` checks
it. ``nprobe`` decides how much of a large file a search has to read.
"""
