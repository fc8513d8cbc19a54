"""A folder into its index: compare, embed what changed, commit batch by batch, calibrate.

In: a folder and a model. Out: an ``IndexSummary``, and a store that is up to date.
"""
