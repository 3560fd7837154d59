"""Batches: lines of requests, answered in any order, and the answers in a file."""
