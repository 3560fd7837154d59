"""The layers of the text decoder.

Read ``self_attention`` first: Llama's layer over MAX's KV cache.  ``cross_attention``
has the two halves of a cross-attention layer: keys and values for the vision graph,
and the layer that attends to them for the text graph.
"""
