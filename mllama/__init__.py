"""Llama 3.2 Vision (``MllamaForConditionalGeneration``) on MAX.

``LLM`` is the Python API, and ``max serve --custom-architectures`` reads
``ARCHITECTURES``.  Both are imported on first use, so that ``import mllama`` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mllama.max_compat.kv_cache_ops import defer_kv_cache_ops
from mllama.version import __version__

if TYPE_CHECKING:
    from mllama.llm import LLM

# Whatever imports MAX imports this package first, child processes included.
defer_kv_cache_ops()

__all__ = ["ARCHITECTURES", "LLM", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "ARCHITECTURES":
        from mllama.max_model.arch import mllama_architecture

        return [mllama_architecture]
    if name == "LLM":
        from mllama.llm import LLM

        return LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
