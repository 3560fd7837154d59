"""Whole pages of the image cache, filled and downloaded by the host, for checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from max.driver import CPU, Buffer
from max.dtype import DType

from mllama.image_cache.block_manager import Entry
from mllama.image_cache.int8_pages import dequantized, filled
from mllama.image_cache.storage import ImageCacheStorage
from mllama.utils.bfloat16 import as_floats, to_bfloat16


def fill_pages(storage: ImageCacheStorage, pages: Iterable[int], value: float) -> None:
    """Writes a value to all keys and values of pages, on each device.

    Args:
        storage: The image cache.
        pages: The pages' numbers.
        value: A value that the cache's dtype represents exactly.
    """
    pages = list(pages)
    for device, blocks in zip(storage.devices, storage.pages, strict=True):
        rows = _flat_pages(blocks)
        values = np.full((1, rows.shape[1]), value, np.float32)
        if rows.dtype is DType.bfloat16:
            host = Buffer.from_numpy(to_bfloat16(values)).view(DType.bfloat16)
        elif rows.dtype is DType.int8:
            content = filled((1, *blocks.shape[1:]), value)
            host = Buffer.from_numpy(content.reshape(1, -1))
        else:
            host = Buffer.from_numpy(values.astype(rows.dtype.to_numpy()))
        content = host.to(device)
        for page in pages:
            rows[page : page + 1, :].inplace_copy_from(content)
        # Copies are asynchronous, and the content must live until they end.
        device.synchronize()


def download_pages(
    storage: ImageCacheStorage, pages: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Returns pages with the heads of all devices.

    Args:
        storage: The image cache.
        pages: The pages' numbers, at least one.

    Returns:
        float32 ``[pages, 2, layers, page size, kv heads, head dim]``, keys first.
    """
    parts = []
    for device, blocks in zip(storage.devices, storage.pages, strict=True):
        device.synchronize()
        rows = _flat_pages(blocks)
        content = [_to_floats(rows[page : page + 1, :], blocks) for page in pages]
        width = content[0].shape[-1]
        parts.append(np.concatenate(content).reshape(-1, *blocks.shape[1:-1], width))
    return np.concatenate(parts, axis=-2)


def download_keys(
    storage: ImageCacheStorage, entry: Entry, layer: int
) -> npt.NDArray[np.float32]:
    """Returns the keys of an entry in one layer, with the heads of all devices.

    Args:
        storage: The image cache.
        entry: The entry.
        layer: The index among the cross-attention layers.

    Returns:
        float32 ``[image tokens, kv heads, head dim]``.
    """
    parts = []
    for device, blocks in zip(storage.devices, storage.pages, strict=True):
        device.synchronize()
        # [pages * (keys, values) * layers, elements of a page's tokens in a layer]
        rows = blocks.view(
            blocks.dtype,
            (
                blocks.shape[0] * 2 * storage.params.num_layers,
                blocks.num_elements
                // (blocks.shape[0] * 2 * storage.params.num_layers),
            ),
        )
        first = [page * 2 * storage.params.num_layers + layer for page in entry.pages]
        content = [_to_floats(rows[row : row + 1, :], blocks) for row in first]
        parts.append(np.concatenate(content))
    return np.concatenate(parts, axis=-2)[: entry.token_ends[-1]]


def _flat_pages(blocks: Buffer) -> Buffer:
    """Returns a view ``[pages, elements of a page]``."""
    return blocks.view(
        blocks.dtype, (blocks.shape[0], blocks.num_elements // blocks.shape[0])
    )


def _to_floats(buffer: Buffer, blocks: Buffer) -> npt.NDArray[np.float32]:
    """Returns a copy on the host, float32 ``[tokens, kv heads, head dim]``.

    Args:
        buffer: Some of the values of ``blocks``, of whole tokens.
        blocks: Pages of one device.
    """
    host = buffer.to(CPU())
    if host.dtype is DType.bfloat16:
        host = host.view(DType.uint16)
    content = host.to_numpy().reshape(-1, *blocks.shape[-2:])
    if host.dtype is DType.int8:
        return dequantized(content)
    # On the host, the buffer is the page itself.
    return np.array(as_floats(content))
