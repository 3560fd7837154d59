"""Models in Ollama's store, and the small files derived from ggml's keys."""
