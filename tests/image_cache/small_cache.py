"""A small image cache on a CPU, which may stand in for several devices."""

from __future__ import annotations

from max.driver import CPU
from max.dtype import DType
from max.graph import DeviceRef
from max.nn.kv_cache import MHAKVCacheParams

from mllama.image_cache.storage import ImageCacheStorage
from mllama.kernels.ops.attention import stored_head_dim


def small_image_cache(
    pages: int,
    *,
    scratch_pages: int = 0,
    layers: int = 1,
    heads: int = 1,
    head_dim: int = 16,
    dtype: DType = DType.float32,
    devices: int = 1,
) -> ImageCacheStorage:
    """Returns the pages of an image cache, 128 tokens each.

    Args:
        pages: The number of pages.
        scratch_pages: Pages beside them for sacrificial images.
        layers: Cross-attention layers.
        heads: Heads of keys and values, on all devices together.
        head_dim: Values of a head.
        dtype: Data type of keys and values.
        devices: Devices that share the heads.
    """
    params = MHAKVCacheParams(
        dtype=dtype,
        n_kv_heads=heads,
        head_dim=stored_head_dim(head_dim, dtype),
        num_layers=layers,
        page_size=128,
        devices=[DeviceRef.CPU()] * devices,
    )
    return ImageCacheStorage(params, [CPU()] * devices, pages, scratch_pages)
