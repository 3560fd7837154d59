"""The text decoder's layers."""
