"""Garbage collections of a server, which visit little.

A full collection visits every object that may be part of a cycle: hundreds of thousands
of imported modules, which hold up whoever waits meanwhile.
"""

from __future__ import annotations

import gc

_is_heap_frozen = False


def freeze_heap() -> None:
    """Keeps what exists now out of garbage collections.

    MAX does the same in its worker.
    """
    global _is_heap_frozen
    _is_heap_frozen = True
    gc.collect()
    gc.freeze()
    # Python collects everything once a quarter as much is new as the last full
    # collection has left, what is frozen now included.  This one leaves nothing.
    gc.collect()


def collect_new_garbage() -> None:
    """Collects garbage that is newer than the frozen heap, if one is frozen."""
    # gc.get_freeze_count walks through all that is frozen, which takes 60 ms.
    if _is_heap_frozen:
        gc.collect()
