"""Anthropic's API: bodies, translation, answers, errors and routes."""
