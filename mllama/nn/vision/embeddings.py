"""Embeddings of the vision encoder: pixels, patches, class token, positions, tiles.

Source: transformers' ``modeling_mllama.py`` (MllamaVisionModel,
MllamaPrecomputedPositionEmbedding, MllamaPrecomputedAspectRatioEmbedding).
"""

from __future__ import annotations

import numpy as np
from max.dtype import DType
from max.graph import DeviceRef, TensorValue, Weight, ops
from max.nn.embedding import Embedding
from max.nn.layer import Module

from mllama.config import MllamaVisionConfig
from mllama.kernels.ops.float_matmul import float_matmul, supports

_GPU_MATMUL_MULTIPLE = 64
"""Width of the tiles of MAX's matmul for sm_90.

It doesn't compile for rows that aren't multiples of 16 bytes, such as the 588 values of
a patch of 14 x 14."""


def normalized_pixels(
    pixel_values: TensorValue, pixel_table: TensorValue
) -> TensorValue:
    """Looks up what 8-bit pixels are after rescaling and normalization.

    A table is exact for any settings of the image processor.  Its own arithmetic is not
    exact in a graph, where MAX's divisions differ from NumPy's in the last bit.

    Args:
        pixel_values: uint8 ``[images, tiles, channels, size, size]``.
        pixel_table: float32 ``[channels, 256]``.

    Returns:
        float32 ``[images, tiles, channels, size, size]``.
    """
    shape = pixel_values.shape
    channels = int(shape[2])
    offsets = np.arange(channels, dtype=np.int32).reshape(1, 1, channels, 1, 1) * 256
    indices = pixel_values.cast(DType.int32) + ops.constant(
        offsets, DType.int32, pixel_values.device
    )
    # MAX gathers along one axis in half the time that five take.
    values = ops.gather(
        ops.reshape(pixel_table, [channels * 256]), ops.reshape(indices, [-1]), axis=0
    )
    return ops.reshape(values, shape)


class MllamaPatchEmbedding(Module):
    """The patch convolution (stride = kernel = patch size, no bias) as a matmul."""

    def __init__(
        self, config: MllamaVisionConfig, dtype: DType, device: DeviceRef
    ) -> None:
        super().__init__()
        self.config = config
        patch = config.patch_size
        self.weight = Weight(
            "weight",
            dtype,
            (config.hidden_size, config.num_channels, patch, patch),
            device,
        )

    def __call__(self, pixel_values: TensorValue) -> TensorValue:
        """Embeds the patches in row-major order.

        Args:
            pixel_values: ``[images, tiles, channels, size, size]``, normalized.

        Returns:
            ``[images, tiles, patches, hidden]``.
        """
        config = self.config
        images, tiles = pixel_values.shape[0], pixel_values.shape[1]
        side, patch = config.image_size // config.patch_size, config.patch_size
        width = config.num_channels * patch * patch
        grid = ops.reshape(
            pixel_values,
            [images * tiles, config.num_channels, side, patch, side, patch],
        )
        patches = ops.reshape(
            ops.permute(grid, [0, 2, 4, 1, 3, 5]), [images, tiles, side * side, width]
        )
        kernel = ops.reshape(self.weight, [config.hidden_size, width])
        if pixel_values.device.is_gpu():
            padding = -width % _GPU_MATMUL_MULTIPLE
            patches = ops.pad(patches, [0, 0] * 3 + [0, padding])
            kernel = ops.pad(kernel, [0, 0, 0, padding])
        if not supports(patches.dtype, patches.device):
            return patches @ kernel.T
        product = float_matmul(ops.reshape(patches, [-1, width]), kernel)
        return ops.reshape(product, [*patches.shape[:3], config.hidden_size])


class MllamaPrecomputedAspectRatioEmbedding(Module):
    """One gated vector per (aspect ratio, tile)."""

    def __init__(
        self, config: MllamaVisionConfig, dtype: DType, device: DeviceRef
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(
            config.max_aspect_ratio_id + 1,
            config.max_num_tiles * config.hidden_size,
            dtype,
            device,
        )
        self.gate = Weight("gate", dtype, (1,), device)

    def __call__(self, aspect_ratio_ids: TensorValue) -> TensorValue:
        """Looks up int64 ``[images]`` as ``[images, tiles, hidden]``."""
        embeddings = self.embedding(aspect_ratio_ids) * ops.tanh(self.gate)
        return ops.reshape(
            embeddings,
            [
                aspect_ratio_ids.shape[0],
                self.config.max_num_tiles,
                self.config.hidden_size,
            ],
        )


class MllamaPrecomputedPositionEmbedding(Module):
    """A position vector per patch, blended with one per (aspect ratio, tile, patch)."""

    def __init__(
        self, config: MllamaVisionConfig, dtype: DType, device: DeviceRef
    ) -> None:
        super().__init__()
        self.config = config
        self.gate = Weight("gate", dtype, (1,), device)
        self.embedding = Weight(
            "embedding", dtype, (config.num_patches, config.hidden_size), device
        )
        self.tile_embedding = Embedding(
            config.max_aspect_ratio_id + 1,
            config.max_num_tiles * config.num_patches * config.hidden_size,
            dtype,
            device,
        )

    def __call__(
        self, hidden_state: TensorValue, aspect_ratio_ids: TensorValue
    ) -> TensorValue:
        """Adds positions to ``[images, tiles, patches, hidden]``."""
        gate = ops.tanh(self.gate)
        tiles = ops.reshape(
            self.tile_embedding(aspect_ratio_ids), list(hidden_state.shape)
        )
        return hidden_state + (1 - gate) * self.embedding + gate * tiles
