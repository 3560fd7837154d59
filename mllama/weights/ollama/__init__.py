"""Models of Ollama's store, and what is derived from ggml's keys."""
