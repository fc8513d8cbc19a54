"""Exchange embeddings with other programs, in clip-retrieval's layout.

``export`` turns a collection into a folder of arrays and metadata; ``import_`` does the reverse.
``layout`` reads and writes the files.
"""
