"""Requests and answers, independent of the interface they came through."""
