"""Compiled graphs kept on disk: what they were compiled for, and the graphs themselves.

Weights are no part of a graph, so that fine-tunes of one shape share it.
"""
