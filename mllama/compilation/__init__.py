"""Turns graphs into executables, and keeps the executables on disk."""
