"""Attention maps: queries of the text, and the keys of the image cache."""
