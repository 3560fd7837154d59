"""Calls the custom ops in graphs."""
