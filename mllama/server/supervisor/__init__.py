"""Keeps a model worker behind the server: watches it, and replaces one that dies."""
