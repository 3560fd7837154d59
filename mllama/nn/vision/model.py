"""The tiled vision encoder.

Source: transformers' ``modeling_mllama.py`` (MllamaVisionModel), with Meta's choice
of intermediate states: the *input* of each listed layer, as in the training of the
published weights.  transformers has returned the layer's output since its pull request
39785; version 4.45 agreed with Meta.
"""

from __future__ import annotations

from collections.abc import Sequence

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorValue, Weight, ops
from max.nn.layer import LayerList
from max.nn.norm import LayerNorm

from mllama.config import MllamaVisionConfig
from mllama.nn.layers.subgraphs import RepeatedLayer
from mllama.nn.layers.tensor_parallel import Sharded, broadcast
from mllama.nn.vision.embeddings import (
    MllamaPatchEmbedding,
    MllamaPrecomputedAspectRatioEmbedding,
    MllamaPrecomputedPositionEmbedding,
)
from mllama.nn.vision.encoder import MllamaVisionEncoderLayer


class MllamaVisionEncoder(Sharded):
    """A stack of vision layers, which share a subgraph."""

    def __init__(
        self,
        config: MllamaVisionConfig,
        num_layers: int,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        *,
        is_gated: bool,
        int8: bool,
    ) -> None:
        super().__init__()
        self.layers = LayerList(
            [
                MllamaVisionEncoderLayer(
                    config,
                    dtype,
                    device,
                    num_shards,
                    is_gated=is_gated,
                    int8=int8,
                )
                for _ in range(num_layers)
            ]
        )

    def __call__(
        self,
        hidden_state: TensorValue,
        real_patches: TensorValue,
        padding_patches: TensorValue,
        signals: Sequence[BufferValue],
        *,
        path: str,
    ) -> list[TensorValue]:
        """Runs the layers.

        Args:
            hidden_state: ``[images * patches, hidden]``, real patches of an image
                first, on the first device.
            real_patches: Any tensor ``[real patches]``; only its length counts.
            padding_patches: Any tensor ``[padding patches]``; only its length counts.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
            path: The path of this module in the root module.

        Returns:
            The input of each layer, then the output of the last, on the first device.
        """
        repeated = RepeatedLayer(path.replace(".", "_") + "_layer")
        states = [hidden_state]
        hidden_states = broadcast(hidden_state, len(self.shards), signals)
        for index, layer in enumerate(self.layers):
            hidden_states = repeated(
                layer,
                [hidden_states, real_patches, padding_patches, signals],
                prefix=f"{path}.layers.{index}.",
            )
            states.append(hidden_states[0])
        return states


class MllamaVisionModel(Sharded):
    """The vision encoder: embeddings, local layers, global layers.

    The layers run on all devices, everything else on the first.
    """

    def __init__(
        self,
        config: MllamaVisionConfig,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        *,
        int8: bool,
    ) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = MllamaPatchEmbedding(config, dtype, device)
        self.class_embedding = Weight(
            "class_embedding", dtype, (config.hidden_size,), device
        )
        self.gated_positional_embedding = MllamaPrecomputedPositionEmbedding(
            config, dtype, device
        )
        self.pre_tile_positional_embedding = MllamaPrecomputedAspectRatioEmbedding(
            config, dtype, device
        )
        self.post_tile_positional_embedding = MllamaPrecomputedAspectRatioEmbedding(
            config, dtype, device
        )
        self.layernorm_pre = LayerNorm(config.hidden_size, [device], dtype)
        self.layernorm_post = LayerNorm(config.hidden_size, [device], dtype)
        self.transformer, self.global_transformer = (
            MllamaVisionEncoder(
                config,
                layers,
                dtype,
                device,
                num_shards,
                is_gated=is_gated,
                int8=int8,
            )
            for layers, is_gated in (
                (config.num_hidden_layers, False),
                (config.num_global_layers, True),
            )
        )

    def embed(
        self, pixel_values: TensorValue, aspect_ratio_ids: TensorValue
    ) -> TensorValue:
        """Embeds patches with class token and positions, then norms and pads them.

        Args:
            pixel_values: ``[images, valid tiles, channels, size, size]``, normalized.
            aspect_ratio_ids: int64 ``[images]``.

        Returns:
            ``[images, max tiles * padded patches, hidden]`` in the order of the tiles.
        """
        config = self.config
        images = pixel_values.shape[0]
        tiles, width = config.max_num_tiles, config.hidden_size
        hidden_state = self.patch_embedding(pixel_values)
        # Empty tiles are zero after normalization, and so are their embeddings.
        empty_tiles = ops.broadcast_to(
            ops.constant(0, hidden_state.dtype, hidden_state.device),
            [images, tiles - pixel_values.shape[1], config.num_patches - 1, width],
        )
        hidden_state = ops.rebind(
            ops.concat([hidden_state, empty_tiles], axis=1),
            [images, tiles, config.num_patches - 1, width],
        )
        tile_embedding = self.pre_tile_positional_embedding(aspect_ratio_ids)
        hidden_state = hidden_state + ops.unsqueeze(tile_embedding, 2)
        class_embedding = ops.broadcast_to(
            ops.reshape(self.class_embedding, [1, 1, 1, width]),
            [images, tiles, 1, width],
        )
        hidden_state = ops.concat([class_embedding, hidden_state], axis=2)
        hidden_state = self.gated_positional_embedding(hidden_state, aspect_ratio_ids)
        hidden_state = ops.reshape(
            self.layernorm_pre(ops.reshape(hidden_state, [-1, width])),
            [images, tiles, config.num_patches, width],
        )
        padding = ops.broadcast_to(
            ops.constant(0, hidden_state.dtype, hidden_state.device),
            [images, tiles, config.num_padding_patches, width],
        )
        hidden_state = ops.concat([hidden_state, padding], axis=2)
        return ops.reshape(hidden_state, [images, tiles * config.padded_patches, width])

    def __call__(
        self,
        pixel_values: TensorValue,
        aspect_ratio_ids: TensorValue,
        real_patches: TensorValue,
        padding_patches: TensorValue,
        signals: Sequence[BufferValue],
        *,
        path: str,
    ) -> list[TensorValue]:
        """Encodes images that have the same number of valid tiles.

        All tensors are on the first device.

        Args:
            pixel_values: ``[images, valid tiles, channels, size, size]``, normalized
                in float32.
            aspect_ratio_ids: int64 ``[images]``.
            real_patches: int64 ``[real patches]``: indices (tile * padded patches +
                patch) of the patches of valid tiles.
            padding_patches: int64 ``[padding patches]``: all other indices.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
            path: The path of this module in the root module.

        Returns:
            The output of the global layers, then the states of the intermediate
            layers, each ``[images, real patches, hidden]``.
        """
        config = self.config
        images, width = pixel_values.shape[0], config.hidden_size
        patches = config.max_num_tiles * config.padded_patches
        order = ops.concat([real_patches, padding_patches]).rebind([patches])

        first_device = self.shards[0]
        hidden_state = first_device.embed(pixel_values, aspect_ratio_ids)
        hidden_state = ops.gather(hidden_state, order, axis=1)
        states = self.transformer(
            _flat(hidden_state),
            real_patches,
            padding_patches,
            signals,
            path=f"{path}.transformer",
        )
        hidden_state = first_device.layernorm_post(states[-1])
        tile_embedding = first_device.post_tile_positional_embedding(aspect_ratio_ids)
        # Unsigned: the handling of signs would have a constant part, which MAX compiles
        # as a graph of its own.
        tile_of_patch = (order.cast(DType.uint32) // config.padded_patches).cast(
            order.dtype
        )
        hidden_state = hidden_state + _flat(
            ops.gather(tile_embedding, tile_of_patch, axis=1)
        )
        global_states = self.global_transformer(
            hidden_state,
            real_patches,
            padding_patches,
            signals,
            path=f"{path}.global_transformer",
        )

        real = real_patches.shape[0]
        first = (slice(0, TensorValue(real)), real)
        intermediate = (states[index] for index in config.intermediate_layers_indices)
        return [
            ops.reshape(
                state.rebind([images * patches, width]), [images, patches, width]
            )[:, first]
            for state in (global_states[-1], *intermediate)
        ]


def _flat(states: TensorValue) -> TensorValue:
    """Reshapes ``[images, patches, hidden]`` to two dimensions.

    Dimensions of a subgraph's inputs may be names, but not products of names.
    """
    width = states.shape[-1]
    return ops.reshape(states, [-1, width]).rebind(["encoder_patches", width])
