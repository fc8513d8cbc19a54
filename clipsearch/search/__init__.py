"""From a query to ranked hits: its parts, their fusion into one vector, the answer.

In: collections, a query, and options. Out: an answer with hits, best first.
"""
