"""Bodies of requests: strict models, and errors that name a field by its path."""
