"""Pixels and texts to embeddings: which models exist, where their weights are, how they run.

In: the name of a model, pixels, texts. Out: ``ModelFiles``, and unit vectors ``(n, dim)``.
open_clip is the reference; ``text_encoder`` computes the same in numpy, without torch.
"""
