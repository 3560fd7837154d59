"""Trains the demo model with PyTorch and transformers."""
