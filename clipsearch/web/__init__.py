"""The pages: what ``--html`` writes and ``browse`` serves on this machine.

In: answers and findings. Out: HTML, escaped; requests from 127.0.0.1 alone.
"""
