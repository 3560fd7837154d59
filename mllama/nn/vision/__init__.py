"""The vision encoder and the projector.

Read ``model`` first, which puts the rest together: ``embeddings`` (patches, positions,
tiles), ``encoder`` (the transformer layers), ``attention`` (among the patches of an
image) and ``linear`` (float or int8).  ``projector`` follows the encoder.
"""
