"""Requests and answers, independent of the interface that they use."""
