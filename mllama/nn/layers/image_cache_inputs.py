"""Graph inputs for the image cache: paged keys and values of cross-attention.

The image cache is one buffer of pages ``[pages, 2, cross layers, page size, kv heads,
head dim]`` in the layout of MAX's paged KV cache, so that MAX's paged kernels can use
it where the custom ops (:mod:`mllama.kernels.ops.attention`) can't.  Each of several
devices has such a buffer with its own kv heads, and a page has the same image on all of
them.  The host assigns pages to images (:mod:`mllama.image_cache.block_manager`).

An image cache in int8, which only the custom ops can use, has a scale for each head of
each token: the bytes of a float32 that follow the head's values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from max.dtype import DType
from max.graph import BufferType, BufferValue, DeviceRef, TensorType, TensorValue
from max.nn.kv_cache import MHAKVCacheParams

from mllama.config import MllamaConfig
from mllama.errors import ConfigError
from mllama.kernels.ops.attention import PAGE_SIZE, stored_head_dim, supports
from mllama.max_compat.model import KVCacheInputsPerDevice, tree_dataclass

_Tensor = TypeVar("_Tensor")
_Buffer = TypeVar("_Buffer")


@tree_dataclass(frozen=True)
class ImageWriteInputs(Generic[_Tensor, _Buffer]):
    """The places where the vision graph stores the keys and values of its images."""

    pages: KVCacheInputsPerDevice[_Tensor, _Buffer]
    """The image cache, a row of the page table for each image, and the first token to
    write of each image (``cache_lengths``)."""

    patch_offsets: _Tensor
    """uint32 ``[images + 1]``: the start of each image in the ragged patches."""


@tree_dataclass(frozen=True)
class AttendingTokens(Generic[_Tensor]):
    """The text tokens that attend to an image; cross-attention computes only these."""

    indices: _Tensor
    """int64 ``[attending tokens]``, ascending; there may be none."""


@tree_dataclass(frozen=True)
class AttendingMask(Generic[_Tensor]):
    """Which text tokens attend to an image; cross-attention computes all of them."""

    factors: _Tensor
    """float32 ``[text tokens, 1]``: 0 for tokens that precede every image, else 1."""


@tree_dataclass(frozen=True)
class ImageReadInputs(Generic[_Tensor, _Buffer]):
    """The images that each text token attends to, in segments.

    A segment is a range of consecutive tokens of one request that attend to the same
    images.  With :class:`AttendingTokens`, segments are of these alone.  With
    :class:`AttendingMask`, a segment without images attends to a page of zeros, because
    the kernels need at least one key, and the mask discards the result.
    """

    pages: KVCacheInputsPerDevice[_Tensor, _Buffer]
    """The image cache, and a row of the page table for each segment."""

    segment_offsets: _Tensor
    """uint32 ``[segments + 1]``: the start of each segment in the tokens that are
    computed."""

    image_offsets: _Tensor
    """uint32 ``[segments + 1]``: running sum of the segments' image tokens."""

    max_segment_length: _Tensor
    """uint32 ``[1]`` on the host: text tokens of the longest segment."""

    attending: AttendingTokens[_Tensor] | AttendingMask[_Tensor]
    """The tokens that attend to an image, as :func:`selects_tokens` says."""


ImageWriteValues = ImageWriteInputs[TensorValue, BufferValue]
ImageReadValues = ImageReadInputs[TensorValue, BufferValue]


def image_cache_dtype(
    config: MllamaConfig,
    dtype: DType,
    device: DeviceRef,
    *,
    is_gguf: bool,
    requested: DType | None = None,
) -> DType:
    """Returns the dtype of keys and values in the image cache.

    With GGUF weights, whose rounding error is far larger, keys and values are rounded
    to bfloat16, which halves their memory.  MAX's kernels require the dtype of the
    activations.

    Args:
        config: The model.
        dtype: Data type of the activations.
        device: Device of the image cache.
        is_gguf: Whether the weights are GGUF blocks.
        requested: The dtype that the user requested; None chooses.

    Raises:
        ConfigError: If the kernels of the device don't support the requested dtype.
    """
    head_dim = config.text_config.head_dim
    if requested is not None:
        if requested is not dtype and not supports(head_dim, dtype, requested, device):
            raise ConfigError(
                f"the image cache can't be in {requested.name} here, only in "
                f"{dtype.name}"
            )
        return requested
    if is_gguf and supports(head_dim, dtype, DType.bfloat16, device):
        return DType.bfloat16
    return dtype


def image_cache_params(
    config: MllamaConfig, dtype: DType, devices: Sequence[DeviceRef]
) -> MHAKVCacheParams:
    """Returns MAX's KV-cache parameters for the image cache.

    Their ``head_dim`` includes the scale of a head in int8.

    Args:
        config: The model.
        dtype: Data type of the keys and values.
        devices: Devices of the image cache; their number divides the kv heads.
    """
    text = config.text_config
    return MHAKVCacheParams(
        dtype=dtype,
        n_kv_heads=text.num_key_value_heads,
        head_dim=stored_head_dim(text.head_dim, dtype),
        num_layers=len(text.cross_attention_layers),
        page_size=PAGE_SIZE,
        devices=list(devices),
    )


def _page_types(
    params: MHAKVCacheParams, sequences: str, device: DeviceRef
) -> KVCacheInputsPerDevice[TensorType, BufferType]:
    host_scalar = TensorType(DType.uint32, [1], DeviceRef.CPU())
    return KVCacheInputsPerDevice(
        kv_blocks=BufferType(
            params.dtype, ["image_pages", *params.shape_per_block], device
        ),
        cache_lengths=TensorType(DType.uint32, [sequences], device),
        lookup_table=TensorType(
            DType.uint32, [sequences, "image_table_columns"], device
        ),
        max_prompt_length=host_scalar,
        max_cache_length=host_scalar,
        page_stride=TensorType(DType.int64, [1], DeviceRef.CPU()),
    )


def image_write_types(
    params: MHAKVCacheParams,
) -> list[ImageWriteInputs[TensorType, BufferType]]:
    """Returns the input types of the vision graph's writes, for each device."""
    return [
        ImageWriteInputs(
            pages=_page_types(params, "images", device),
            patch_offsets=TensorType(DType.uint32, ["image_offsets"], device),
        )
        for device in params.devices
    ]


def selects_tokens(*, is_host: bool) -> bool:
    """Returns True if cross-attention computes only the tokens that attend to an image.

    On a GPU it computes all tokens and masks them: a captured step has inputs of fixed
    shapes.  The mask is a factor, because MAX 26.7's ``where`` turned the tokens that
    it should have kept into zeros there (``docs/gpu.md``).
    """
    return is_host


def image_read_types(
    params: MHAKVCacheParams,
) -> list[ImageReadInputs[TensorType, BufferType]]:
    """Returns the input types of the text graph's reads, for each device."""
    return [
        ImageReadInputs(
            pages=_page_types(params, "segments", device),
            segment_offsets=TensorType(DType.uint32, ["segment_offsets"], device),
            image_offsets=TensorType(DType.uint32, ["segment_offsets"], device),
            max_segment_length=TensorType(DType.uint32, [1], DeviceRef.CPU()),
            attending=_attending_types(device),
        )
        for device in params.devices
    ]


def _attending_types(
    device: DeviceRef,
) -> AttendingTokens[TensorType] | AttendingMask[TensorType]:
    if selects_tokens(is_host=device.is_cpu()):
        return AttendingTokens(TensorType(DType.int64, ["attending_tokens"], device))
    return AttendingMask(TensorType(DType.float32, ["total_seq_len", 1], device))
