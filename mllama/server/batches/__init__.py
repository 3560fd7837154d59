"""Requests of batches, which no client waits for."""
