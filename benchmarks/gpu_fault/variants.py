"""Variants of the vision network, for the graphs P0 to P4.

All are the package's own network.  P1 and P2 also return what it computes on the way,
which hooks around its layers collect; P4 has states of three dimensions, as the network
had them when the fault was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any
from unittest.mock import patch

from max.graph import BufferValue, TensorValue, ops
from max.nn.layer import Module, add_layer_hook, clear_hooks

from mllama.config import MllamaConfig
from mllama.max_model.graphs import image_encoder
from mllama.max_model.model_config import MllamaArchConfig
from mllama.nn.image_encoder import MllamaImageEncoder
from mllama.nn.layers.image_cache_inputs import ImageWriteValues
from mllama.nn.layers.subgraphs import RepeatedLayer
from mllama.nn.text.cross_attention import MllamaCrossAttentionKeysValues
from mllama.nn.vision.attention import padded_attention
from mllama.nn.vision.encoder import MllamaVisionAttention
from mllama.nn.vision.model import MllamaVisionEncoder


class Variant(Enum):
    """The variants; the values are the names of P0 to P4 in ``docs/gpu.md``."""

    AS_IS = "P0"
    STATES = "P1"
    EMBEDDINGS = "P2"
    CHECKED = "P3"
    THREE_DIMENSIONS = "P4"

    @property
    def is_checked(self) -> bool:
        """Returns True if it is compiled with MAX's assertions and checks of reads."""
        return self is Variant.CHECKED


INPUTS = ("ids", "real_patches", "cache_lengths", "lookup_table", "patch_offsets")
"""The inputs that P1 returns as its kernels read them."""

EMBEDDINGS = (
    "pre_tile",
    "position_tiles",
    "post_tile",
    "patches",
    "with_class",
    "positions",
    "norm",
    "ordered",
)
"""What P2 returns of the embeddings: the three look-ups, the product with the patches,
and the states after the tiles' vectors and the class token, the positions, the norm,
and in the order of the layers."""


def stage_names(config: MllamaConfig, variant: Variant) -> list[str]:
    """Returns the names of a variant's further outputs, in their order."""
    vision = config.vision_config
    if variant is Variant.STATES:
        return [
            *INPUTS,
            *(f"local.{index}" for index in range(vision.num_hidden_layers + 1)),
            *(f"global.{index}" for index in range(vision.num_global_layers + 1)),
            "projected",
        ]
    if variant is Variant.EMBEDDINGS:
        layers = range(len(config.text_config.cross_attention_layers))
        return [
            *EMBEDDINGS,
            *(f"{kind}.{index}" for index in layers for kind in ("key", "value")),
        ]
    return []


def build(config: MllamaArchConfig, variant: Variant) -> MllamaImageEncoder:
    """Builds the network of a variant for one device, without weights.

    Args:
        config: The model's resolved configuration.
        variant: The variant.
    """
    network = image_encoder(config, {})
    if stage_names(config.model, variant):
        # The weights' names, which depend on the modules, stay as they are.
        network.__class__ = _ObservedEncoder
        network.variant = variant
    if variant is Variant.THREE_DIMENSIONS:
        vision = network.vision_model
        for encoder in (vision.transformer, vision.global_transformer):
            encoder.__class__ = _ThreeDimensionalEncoder
            for layer in encoder.layers:
                layer.self_attn.__class__ = _ThreeDimensionalAttention
    return network


class _ObservedEncoder(MllamaImageEncoder):
    """The network, which also returns the stages of :func:`stage_names`."""

    variant: Variant

    def __call__(
        self,
        pixel_values: TensorValue,
        pixel_table: TensorValue,
        aspect_ratio_ids: TensorValue,
        real_patches: TensorValue,
        padding_patches: TensorValue,
        writes: Sequence[ImageWriteValues],
        signals: Sequence[BufferValue],
    ) -> tuple[TensorValue, ...]:
        """Returns what the network does, and the stages."""
        pages = writes[0].pages
        inputs = (
            aspect_ratio_ids,
            real_patches,
            pages.cache_lengths,
            pages.lookup_table,
            writes[0].patch_offsets,
        )
        # Twice in a row: an output that is an input would be no kernel's result.
        stages = {
            name: ops.concat([value, value])
            for name, value in zip(INPUTS, inputs, strict=True)
            if self.variant is Variant.STATES
        }
        with _collected(self, stages):
            stored = super().__call__(
                pixel_values,
                pixel_table,
                aspect_ratio_ids,
                real_patches,
                padding_patches,
                writes,
                signals,
            )
        names = stage_names(self.config, self.variant)
        return (stored, *(stages[name] for name in names))


@contextmanager
def _collected(
    network: _ObservedEncoder, stages: dict[str, TensorValue]
) -> Iterator[None]:
    """Collects the stages of the network, which is traced within."""
    vision = network.vision_model
    named: dict[Module, str] = {
        vision.pre_tile_positional_embedding: "pre_tile",
        vision.gated_positional_embedding.tile_embedding: "position_tiles",
        vision.post_tile_positional_embedding: "post_tile",
        vision.patch_embedding: "patches",
        vision.gated_positional_embedding: "positions",
        vision.layernorm_pre: "norm",
        network.multi_modal_projector: "projected",
    }
    encoders = {vision.transformer: "local", vision.global_transformer: "global"}
    returns_keys = network.variant is Variant.EMBEDDINGS
    inner: dict[str, TensorValue] = {}

    def collect(layer: Any, args: Any, kwargs: Any, outputs: Any) -> Any:
        if layer in named:
            stages[named[layer]] = outputs
        if layer is vision.gated_positional_embedding:
            stages["with_class"] = args[0]
        if layer in encoders:
            for index, states in enumerate(outputs):
                stages[f"{encoders[layer]}.{index}"] = states
        if layer is vision.transformer:
            stages["ordered"] = args[0]
        # The network builds the graph of all layers from the first.
        first = network.cross_attn[0]
        if returns_keys and layer in (first.k_norm, first.v_proj):
            inner["key" if layer is first.k_norm else "value"] = outputs
        if returns_keys and isinstance(layer, MllamaCrossAttentionKeysValues):
            return [outputs, inner["key"], inner["value"]]
        return None

    call = RepeatedLayer.__call__
    count = 0

    def call_keeping_keys(self: RepeatedLayer, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        outputs = call(self, *args, **kwargs)
        if not (returns_keys and self.name.startswith("cross_attention")):
            return outputs
        stages[f"key.{count}"], stages[f"value.{count}"] = outputs[1:]
        count += 1
        return outputs[:1]

    add_layer_hook(collect)
    try:
        with patch.object(RepeatedLayer, "__call__", call_keeping_keys):
            yield
    finally:
        clear_hooks()


class _ThreeDimensionalEncoder(MllamaVisionEncoder):
    """A stack of vision layers with states ``[images, patches, hidden]``."""

    def __call__(
        self,
        hidden_state: TensorValue,
        real_patches: TensorValue,
        padding_patches: TensorValue,
        signals: Sequence[BufferValue],
        *,
        path: str,
    ) -> list[TensorValue]:
        """Returns what the stack does, from and to two dimensions."""
        flat, width = hidden_state.shape
        patches = self.layers[0].self_attn.patches
        split = ops.reshape(
            hidden_state.rebind([flat // patches * patches, width]),
            [flat // patches, patches, width],
        ).rebind(["encoder_images", patches, width])
        states = super().__call__(
            split, real_patches, padding_patches, signals, path=path
        )
        return [
            ops.reshape(each, [-1, width]).rebind(["encoder_patches", width])
            for each in states
        ]


class _ThreeDimensionalAttention(MllamaVisionAttention):
    """Attention whose products have three dimensions."""

    def __call__(
        self,
        hidden_state: TensorValue,
        real_patches: TensorValue,
        padding_patches: TensorValue,
    ) -> TensorValue:
        """Maps ``[images, patches, hidden]`` to the same shape."""
        return self.o_proj(
            padded_attention(
                self.q_proj(hidden_state),
                self.k_proj(hidden_state),
                self.v_proj(hidden_state),
                real_patches,
                padding_patches,
                self.head_dim,
                allow_bfloat16=self.allow_bfloat16,
            )
        )
