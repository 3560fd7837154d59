"""The HTTP server, on MAX Serve: the APIs of OpenAI, Anthropic and Ollama."""
