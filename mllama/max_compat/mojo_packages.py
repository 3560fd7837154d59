"""Mojo packages of custom ops, in the form that MAX's compiler reads."""

from __future__ import annotations

import functools
from pathlib import Path

# MAX calls this function for a folder of sources, once for each graph and subgraph.
from mojo.paths import _build_mojo_source_package


@functools.cache
def built_mojo_package(folder: Path) -> Path:
    """Returns the binary package of a folder of Mojo sources, built once per process.

    Building takes seconds, and a graph and each of its subgraphs need all packages.

    Args:
        folder: The package's sources, which must not change while the process runs.
    """
    return _build_mojo_source_package(folder)
