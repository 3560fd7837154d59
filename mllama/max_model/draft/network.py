"""The network of the draft model: the text decoder without images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorValue
from max.nn.kv_cache import MHAKVCacheParams

from mllama.max_compat.model import PagedCacheValues
from mllama.nn.layers.linear import Encodings
from mllama.nn.text_decoder import MllamaTextDecoder
from mllama.weights.llama_config import LlamaConfig


class LlamaTextDecoder(MllamaTextDecoder):
    """A text-only Llama and its head; one graph serves prefill and decode.

    Args:
        config: The model, which has no cross-attention layers.
        kv_params: Its KV cache.
        dtype: Data type of activations, and of weights that are not quantized.
        device: The device that runs it.
        encodings: Encodings of the tensors in GGUF blocks, by name.
    """

    def __init__(
        self,
        config: LlamaConfig,
        kv_params: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        encodings: Encodings,
    ) -> None:
        # Of the image cache nothing but its devices counts, without cross-attention.
        super().__init__(
            config, kv_params, kv_params, dtype, device, encodings=encodings
        )

    def __call__(  # type: ignore[override]
        self,
        tokens: TensorValue,
        input_row_offsets: TensorValue,
        logit_indices: TensorValue,
        kv_caches: Sequence[PagedCacheValues],
        freqs_cis: Sequence[TensorValue],
        signals: Sequence[BufferValue],
    ) -> tuple[TensorValue]:
        """Computes one step of a ragged batch, as the text decoder does."""
        return super().__call__(
            tokens, input_row_offsets, logit_indices, (), kv_caches, freqs_cis, signals
        )

    def argument_types(self) -> tuple[Any, ...]:
        """Returns the types of the arguments of a call."""
        tokens, offsets, indices, _, *others = super().argument_types()
        return (tokens, offsets, indices, *others)
