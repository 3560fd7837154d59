"""The memory that this process may use, limits of its container included."""

from __future__ import annotations

from max.support.host_memory import host_memory_limit

__all__ = ["host_memory_limit"]
