"""Custom ops in Mojo for CPUs, which MAX compiles into graphs.

``dispatch`` decides whether graphs use them on this machine.  ``ops/`` has the Python
functions that add them to a graph, one module for each folder of ``mojo/``:

- ``attention``: among patches, to cached images and to the KV cache.
- ``gguf_matmul``: activations times GGUF blocks.
- ``int8_matmul``: activations times int8 matrices (W8A8).
- ``gguf_quantize``: quantizes weights to GGUF blocks.

The ``__init__.mojo`` of a folder registers its ops, checks their arguments, and says in
which order to read the other files.  The tests compare every op with a NumPy form.
"""
