"""Many requests at once, driven step by step."""
