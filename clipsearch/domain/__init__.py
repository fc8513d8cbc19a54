"""What the images are about: a fixed class taxonomy, its gate, and the meaning of scores.

In: a TOML file, texts, embeddings. Out: a ``Domain``, refusals, false-alarm rates. Nothing here
opens an index or loads a model; only numpy is needed.
"""
