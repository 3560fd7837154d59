"""Compiles graphs to executables and keeps the executables on disk."""
