"""Turn a folder into its index: compare, embed changes, commit batch by batch, calibrate.

In: a folder and a model. Out: an ``IndexSummary``, and a store that is up to date.
"""
