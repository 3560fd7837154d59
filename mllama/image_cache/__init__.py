"""The image cache: cross-attention keys and values of images, computed once."""
