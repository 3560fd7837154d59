"""Pictures of shapes and digits, and conversations about them."""
