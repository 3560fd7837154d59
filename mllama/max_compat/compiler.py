"""MAX's undocumented names that running a single kernel needs.

They are in a separate module so that using one kernel doesn't load MAX's pipelines and
server, as :mod:`mllama.max_compat.model` does, which takes seconds.
"""

from __future__ import annotations

# The compiler's context belongs to the thread that imported MAX; other threads enter
# it.
from max._mlir_context import ensure_default_mlir_context

__all__ = ["ensure_default_mlir_context"]
