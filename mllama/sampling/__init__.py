"""Sampling on the host: from a request's logits to its next token, in NumPy."""
