"""APIs that the server speaks, each a thin translation to the same requests."""
