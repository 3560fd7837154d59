"""Defaults that the commands' help shows; nothing else is imported for it."""

from __future__ import annotations

DEFAULT_BATCH_SIZE = {"cpu": 4, "gpu": 16}
"""Requests that :class:`LLM` works on together, by device.  Beyond a few a CPU gains
nothing."""

DEFAULT_CE_BATCH_SIZE = 32
"""Prompts read in one step."""
