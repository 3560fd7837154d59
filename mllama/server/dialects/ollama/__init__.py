"""Ollama's API: bodies, their translation to requests, and answers made of events."""
