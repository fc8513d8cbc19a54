"""How good the answers are: labelled sets, metrics with intervals, zero-shot, linear probes.

In: labelled images and a collection or a model. Out: reports.
"""
