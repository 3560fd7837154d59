"""Calls of tools in answers: which are possible, how they are forced, and how they are
told from text."""
