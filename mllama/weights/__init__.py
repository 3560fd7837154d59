"""The files that a model's weights come in.  Knows tensors and bytes, no graphs."""
