"""What is recorded of requests and of the engine: metrics, logs and traces."""
