"""The door to private names of MAX's graph compiler: the least that kernels need.

Apart from :mod:`mllama.max_compat.model` so that using one kernel doesn't load MAX's
pipelines and server, which takes seconds.
"""

from __future__ import annotations

# The compiler's context belongs to the thread that imported MAX; others enter it.
from max._mlir_context import ensure_default_mlir_context

__all__ = ["ensure_default_mlir_context"]
