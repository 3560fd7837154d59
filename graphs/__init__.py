"""Builds the package ``mllama-graphs``: compiled graphs of the published models."""
