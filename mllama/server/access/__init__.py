"""Who may use the server: keys, and requests that web pages make."""
