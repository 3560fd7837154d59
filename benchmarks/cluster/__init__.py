"""Measures a cluster of this machine."""
