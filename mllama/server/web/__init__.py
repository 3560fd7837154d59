"""The chat page of the server, for browsers."""
