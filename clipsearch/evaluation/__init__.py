"""Measure answer quality: labeled sets, metrics with intervals, zero-shot, linear probes.

In: labeled images and a collection or a model. Out: reports.
"""
