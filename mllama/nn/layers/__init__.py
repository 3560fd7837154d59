"""Building blocks that the two networks share.

In reading order: ``graph_module`` (a network that is traced into a graph),
``image_cache_inputs`` (the graphs' view of the image cache), ``linear`` (matrices as
floats or GGUF blocks), ``tensor_parallel`` (one network over several devices) and
``subgraphs`` (layers of one kind, compiled once).
"""
