"""A stand-in for MAX's module ``max._kv_cache_ops`` that loads it when it is called.

Importing MAX imports the module, which is written in Mojo.  Its first import in an
environment compiles it, which takes 15 to 36 seconds on two cores, but only GPUs need
its functions.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any

from mllama.max_compat import patches

FUNCTIONS = ("mha_decode_num_partitions", "mla_dispatch_args_scalar")
"""The functions that MAX imports from the module."""

_lock = threading.Lock()


def defer_kv_cache_ops() -> None:
    """Puts the stand-in where MAX's imports find it, unless MAX is imported already."""
    stand_in = ModuleType(patches.KV_CACHE_OPS, __doc__)
    for name in FUNCTIONS:
        setattr(stand_in, name, _deferred(stand_in, name))
    patches.replace_kv_cache_ops(stand_in)


def _deferred(stand_in: ModuleType, name: str) -> Any:
    """Returns a function that imports MAX's module and calls its function."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(_loaded(stand_in), name)(*args, **kwargs)

    return call


def _loaded(stand_in: ModuleType) -> ModuleType:
    """Returns MAX's module, which is imported if the stand-in is still in its place."""
    with _lock:
        if sys.modules.get(patches.KV_CACHE_OPS) is stand_in:
            del sys.modules[patches.KV_CACHE_OPS]
        return importlib.import_module(patches.KV_CACHE_OPS)
