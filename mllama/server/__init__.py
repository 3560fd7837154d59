"""The OpenAI-compatible HTTP server, based on MAX Serve."""
