"""Measurements of what users wait for; see README."""
