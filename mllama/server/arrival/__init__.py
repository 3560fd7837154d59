"""Requests as they arrive: their bodies, and the memory that they take together."""
