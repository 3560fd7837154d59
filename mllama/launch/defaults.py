"""How much is worked on at once; apart so that options load nothing."""

from __future__ import annotations

from typing import Final

DEFAULT_BATCH_SIZE: Final = {"cpu": 4, "gpu": 16}
"""Requests worked on together, by device.  Beyond a few a CPU gains nothing."""

DEFAULT_CE_BATCH_SIZE: Final = 32
"""Prompts read in one step."""
