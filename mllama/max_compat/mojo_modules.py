"""MAX's Python modules in Mojo, which it compiles when they are first imported."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def compiles_at_import() -> bool:
    """Returns True if the next import of MAX compiles one of its modules.

    MAX 26.7 does so once in an environment, for ``max._kv_cache_ops``, and writes the
    library in place: a second process that imports MAX meanwhile may load half a file.
    Where MAX's folder can't be written to, the library goes to MAX's cache, and this
    returns False.
    """
    spec = importlib.util.find_spec("max")
    for location in (spec and spec.submodule_search_locations) or ():
        folder = Path(location) / "_kv_cache_ops"
        if folder.is_dir():
            compiled = any(folder.glob("__mojocache__/*.so"))
            return not compiled and os.access(folder, os.W_OK)
    return False
