"""The root of the vision graph: from pixels to keys and values in the image cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from max.dtype import DType
from max.graph import (
    BufferValue,
    DeviceRef,
    TensorType,
    TensorValue,
    ops,
)
from max.nn.kv_cache import MHAKVCacheParams
from max.nn.layer import LayerList

from mllama.config import MllamaConfig
from mllama.kernels.ops import attention, float_matmul, gguf_matmul, int8_matmul
from mllama.nn.layers.graph_module import GraphModule
from mllama.nn.layers.image_cache_inputs import ImageWriteValues, image_write_types
from mllama.nn.layers.linear import Encodings
from mllama.nn.layers.subgraphs import RepeatedLayers
from mllama.nn.layers.tensor_parallel import broadcast, signal_types
from mllama.nn.text.cross_attention import MllamaCrossAttentionKeysValues
from mllama.nn.vision.embeddings import normalized_pixels
from mllama.nn.vision.model import MllamaVisionModel
from mllama.nn.vision.projector import FloatProjector, Int8Projector


class MllamaImageEncoder(GraphModule):
    """The vision model, the projector, and keys and values for cross-attention.

    The decoder reads the keys and values that this graph writes, and never the states
    of an image, so that each image is projected only once.  On several devices, the
    first runs the projector, which is a few percent of the work.
    """

    def __init__(
        self,
        config: MllamaConfig,
        image_cache_params: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        num_shards: int = 1,
        *,
        encodings: Encodings,
        int8_vision: bool = False,
    ) -> None:
        super().__init__()
        # In another order than the text graph's, whose process builds packages at the
        # same time.
        self.mojo_packages = (
            float_matmul.MOJO_PACKAGE,
            gguf_matmul.MOJO_PACKAGE,
            attention.MOJO_PACKAGE,
        )
        if int8_vision:
            self.mojo_packages += (int8_matmul.MOJO_PACKAGE,)
        self.config = config
        self.image_cache_params = image_cache_params
        self.device = device
        self.dtype = dtype
        self.vision_model = MllamaVisionModel(
            config.vision_config, dtype, device, num_shards, int8=int8_vision
        )
        self.multi_modal_projector = (
            Int8Projector(config, device)
            if int8_vision
            else FloatProjector(config, dtype, device)
        )
        self.cross_attn = LayerList(
            [
                MllamaCrossAttentionKeysValues(
                    config.text_config, dtype, device, num_shards, encodings, path
                )
                for path in self.cross_attention_paths()
            ]
        )
        self.kinds = [
            ",".join(
                encodings[name].name if name in encodings else "float"
                for name in (f"{path}.k_proj.weight", f"{path}.v_proj.weight")
            )
            for path in self.cross_attention_paths()
        ]

    def cross_attention_paths(self) -> list[str]:
        """Returns the paths of the layers of ``cross_attn`` in the whole model."""
        layers = self.config.text_config.cross_attention_layers
        return [f"language_model.layers.{index}.cross_attn" for index in layers]

    def cross_attention_states(
        self,
        pixel_values: TensorValue,
        pixel_table: TensorValue,
        aspect_ratio_ids: TensorValue,
        real_patches: TensorValue,
        padding_patches: TensorValue,
        signals: Sequence[BufferValue],
    ) -> TensorValue:
        """Encodes images and projects them to the width of the text decoder.

        The arguments are those of a call of the module.

        Returns:
            ``[images, real patches, text hidden]`` on the first device.
        """
        vision_states = self.vision_model(
            normalized_pixels(pixel_values, pixel_table).cast(self.dtype),
            aspect_ratio_ids,
            real_patches,
            padding_patches,
            signals,
            path="vision_model",
        )
        return self.shards[0].multi_modal_projector(vision_states)

    def __call__(
        self,
        pixel_values: TensorValue,
        pixel_table: TensorValue,
        aspect_ratio_ids: TensorValue,
        real_patches: TensorValue,
        padding_patches: TensorValue,
        writes: Sequence[ImageWriteValues],
        signals: Sequence[BufferValue],
    ) -> TensorValue:
        """Encodes images and stores their keys and values.

        Args:
            pixel_values: uint8 ``[images, valid tiles, channels, size, size]``.
            pixel_table: float32 ``[channels, 256]``: what each value of a channel is
                after rescaling and normalization.
            aspect_ratio_ids: int64 ``[images]``.
            real_patches: int64 ``[real patches]``, the patches of valid tiles.
            padding_patches: int64 ``[padding patches]``, all others.
            writes: Where each device stores each image.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.

        Returns:
            uint32 scalar: the number of cross-attention layers stored.  MAX requires
            a graph to return something.
        """
        states = self.cross_attention_states(
            pixel_values,
            pixel_table,
            aspect_ratio_ids,
            real_patches,
            padding_patches,
            signals,
        )
        # Dimensions of a subgraph's inputs may be names, but not products of names.
        width = self.config.text_config.hidden_size
        patches = broadcast(
            ops.rebind(ops.reshape(states, [-1, width]), ["image_patches", width]),
            len(self.shards),
            signals,
        )
        repeated = RepeatedLayers("cross_attention_keys_values")
        layer_idx = ops.constant(0, DType.uint32, DeviceRef.CPU())
        for index, layer in enumerate(self.cross_attn):
            (layer_idx,) = repeated[self.kinds[index]](
                layer, [layer_idx, patches, writes], prefix=f"cross_attn.{index}."
            )
        return layer_idx

    def argument_types(self) -> tuple[Any, ...]:
        """Returns the types of the arguments of a call."""
        vision = self.config.vision_config
        return (
            TensorType(
                DType.uint8,
                [
                    "images",
                    "valid_tiles",
                    vision.num_channels,
                    vision.image_size,
                    vision.image_size,
                ],
                self.device,
            ),
            TensorType(DType.float32, [vision.num_channels, 256], self.device),
            TensorType(DType.int64, ["images"], self.device),
            TensorType(DType.int64, ["real_patches"], self.device),
            TensorType(DType.int64, ["padding_patches"], self.device),
            image_write_types(self.image_cache_params),
            signal_types(self.image_cache_params.devices),
        )
