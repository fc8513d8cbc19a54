"""The HTML pages that ``--html`` writes and ``browse`` serves on this machine.

In: answers and findings. Out: escaped HTML, served to 127.0.0.1 only.
"""
