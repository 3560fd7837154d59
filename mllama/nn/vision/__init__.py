"""The vision encoder's layers."""
