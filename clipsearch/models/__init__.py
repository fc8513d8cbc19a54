"""Pixels and texts to embeddings: which models there are, where their weights lie, how they run.

In: the name of a model, pixels, texts. Out: ``ModelFiles``, and unit vectors ``(n, dim)``.
open_clip defines what is right; ``text_encoder`` does the same in numpy, without torch.
"""
