"""Measures guessing (``--speculate``); ``python -m benchmarks.speculation --help``."""
