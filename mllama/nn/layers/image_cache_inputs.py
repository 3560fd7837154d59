"""How the graphs see the image pool: the paged cross-attention keys and values.

The pool is one buffer of pages ``[pages, 2, cross layers, page size, kv heads,
head dim]`` in the layout of MAX's paged KV cache, so that MAX's paged kernels can
store into it and attend over it where the custom ops can't
(:mod:`mllama.kernels.ops.attention`).
Of several devices each has such a buffer with its own kv heads, and the same pages hold
the same images on all.  What lies in it is decided on the host
(:mod:`mllama.image_cache.block_manager`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from max.dtype import DType
from max.graph import BufferType, BufferValue, DeviceRef, TensorType, TensorValue
from max.nn.kv_cache import MHAKVCacheParams

from mllama.config import MllamaConfig
from mllama.kernels.ops.attention import PAGE_SIZE, supports
from mllama.max_compat.model import KVCacheInputsPerDevice, tree_dataclass

_Tensor = TypeVar("_Tensor")
_Buffer = TypeVar("_Buffer")


@tree_dataclass(frozen=True)
class ImageWriteInputs(Generic[_Tensor, _Buffer]):
    """Where the vision graph stores the keys and values of its images."""

    pages: KVCacheInputsPerDevice[_Tensor, _Buffer]
    """The pool, a page-table row per image, and the first row to write per image
    (``cache_lengths``)."""

    patch_offsets: _Tensor
    """uint32 ``[images + 1]``: where each image starts in the ragged rows."""


@tree_dataclass(frozen=True)
class ImageReadInputs(Generic[_Tensor, _Buffer]):
    """What each text row attends to, as segments.

    A segment is a range of consecutive text rows of one request that see the same
    images.  Segments without an image point at a page of zeros and are taken out by
    ``image_mask``, so the kernel never meets an empty range.
    """

    pages: KVCacheInputsPerDevice[_Tensor, _Buffer]
    """The pool and a page-table row per segment."""

    segment_offsets: _Tensor
    """uint32 ``[segments + 1]``: where each segment starts in the text rows."""

    image_offsets: _Tensor
    """uint32 ``[segments + 1]``: running sum of the image rows each segment sees."""

    max_segment_length: _Tensor
    """uint32 ``[1]`` on the host: text rows of the longest segment."""

    image_mask: _Tensor
    """``[text rows, 1]`` of :func:`image_mask_dtype`: false for rows that precede every
    image."""


ImageWriteValues = ImageWriteInputs[TensorValue, BufferValue]
ImageReadValues = ImageReadInputs[TensorValue, BufferValue]


def image_cache_dtype(
    config: MllamaConfig, dtype: DType, device: DeviceRef, *, is_blocks: bool
) -> DType:
    """Element type of keys and values in the pool.

    Weights in blocks err far more than keys and values that are rounded to bfloat16,
    which take half the memory.  MAX's kernels want the activations' type.

    Args:
        config: The model.
        dtype: Element type of the activations.
        device: Where the pool lives.
        is_blocks: Whether the weights are in blocks.
    """
    head_dim = config.text_config.head_dim
    if is_blocks and supports(head_dim, dtype, DType.bfloat16, device):
        return DType.bfloat16
    return dtype


def image_cache_params(
    config: MllamaConfig, dtype: DType, devices: Sequence[DeviceRef]
) -> MHAKVCacheParams:
    """Describes the pool in MAX's terms.

    Args:
        config: The model.
        dtype: Element type of the keys and values.
        devices: Where the pool lives; their number divides the kv heads.
    """
    text = config.text_config
    return MHAKVCacheParams(
        dtype=dtype,
        n_kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        num_layers=len(text.cross_attention_layers),
        page_size=PAGE_SIZE,
        devices=list(devices),
    )


def _page_types(
    params: MHAKVCacheParams, rows: str, device: DeviceRef
) -> KVCacheInputsPerDevice[TensorType, BufferType]:
    host_scalar = TensorType(DType.uint32, [1], DeviceRef.CPU())
    return KVCacheInputsPerDevice(
        kv_blocks=BufferType(
            params.dtype, ["image_pages", *params.shape_per_block], device
        ),
        cache_lengths=TensorType(DType.uint32, [rows], device),
        lookup_table=TensorType(DType.uint32, [rows, "image_table_columns"], device),
        max_prompt_length=host_scalar,
        max_cache_length=host_scalar,
        page_stride=TensorType(DType.int64, [1], DeviceRef.CPU()),
    )


def image_write_types(
    params: MHAKVCacheParams,
) -> list[ImageWriteInputs[TensorType, BufferType]]:
    """Input types of the vision graph's stores, for each device."""
    return [
        ImageWriteInputs(
            pages=_page_types(params, "images", device),
            patch_offsets=TensorType(DType.uint32, ["image_offsets"], device),
        )
        for device in params.devices
    ]


def image_mask_dtype(*, is_host: bool) -> DType:
    """How rows that see an image are told from others: a condition, or on a GPU a
    factor of one or zero.

    There, in this graph and MAX 26.7, a selection made zeros of the rows that were to
    stay as they were (``docs/gpu.md``).
    """
    return DType.bool if is_host else DType.float32


def image_read_types(
    params: MHAKVCacheParams,
) -> list[ImageReadInputs[TensorType, BufferType]]:
    """Input types of the text graph's cross-attention, for each device."""
    return [
        ImageReadInputs(
            pages=_page_types(params, "segments", device),
            segment_offsets=TensorType(DType.uint32, ["segment_offsets"], device),
            image_offsets=TensorType(DType.uint32, ["segment_offsets"], device),
            max_segment_length=TensorType(DType.uint32, [1], DeviceRef.CPU()),
            image_mask=TensorType(
                image_mask_dtype(is_host=device.is_cpu()), ["total_seq_len", 1], device
            ),
        )
        for device in params.devices
    ]
