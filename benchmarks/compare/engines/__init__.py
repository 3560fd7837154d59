"""One script an engine, run by the Python of that engine's environment."""
