"""Plans the memory of the draft model: its weights and its KV cache."""

from __future__ import annotations

from typing import Final

from max.graph import DeviceRef

from mllama.max_model.draft.graph import activation_dtype, draft_kv_params
from mllama.max_model.draft.settings import DraftSettings
from mllama.utils.sizes import format_bytes

SHARE: Final = 0.05
"""Share of the device's memory that the KV cache takes at most."""


def draft_cache_pages(
    settings: DraftSettings, *, batch_size: int, max_length: int, memory: int
) -> int:
    """Returns the number of pages of the KV cache.

    It has room for so many sequences of full length as a batch has requests, within a
    share of the memory.  Requests beyond it are not guessed for.

    Args:
        settings: Names the model's files.
        batch_size: Requests of a batch.
        max_length: Tokens of the longest sequence.
        memory: The device's memory in bytes.
    """
    page_bytes, page_size = _page(settings)
    wanted = batch_size * -(-max_length // page_size)
    return max(1, min(wanted, int(memory * SHARE) // page_bytes))


def draft_bytes(settings: DraftSettings, pages: int) -> int:
    """Returns the bytes of memory that the draft model takes.

    Args:
        settings: Names its files.
        pages: Pages of its KV cache.
    """
    page_bytes, _ = _page(settings)
    return settings.weights_bytes + pages * page_bytes


def draft_summary(settings: DraftSettings, pages: int) -> str:
    """Returns a line about the draft model for the log."""
    page_bytes, page_size = _page(settings)
    return (
        f"draft model: KV cache of {format_bytes(pages * page_bytes)}, "
        f"{pages * page_size} tokens"
    )


def _page(settings: DraftSettings) -> tuple[int, int]:
    """Returns the bytes and the tokens of a page."""
    params = draft_kv_params(
        settings.config, activation_dtype(settings.encoding), DeviceRef.CPU()
    )
    return params.bytes_per_block, params.page_size
