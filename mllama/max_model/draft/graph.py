"""The draft model's graph, compiled and cached like the model's own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from max.dtype import DType
from max.graph import DeviceRef
from max.graph.weights import WeightData
from max.nn.kv_cache import MHAKVCacheParams

from mllama.compilation.lazy_graph import LazyGraphSpec
from mllama.kernels.ops.attention import PAGE_SIZE
from mllama.max_compat.model import supported_encoding_dtype
from mllama.max_model.draft import network
from mllama.max_model.draft.network import LlamaTextDecoder
from mllama.max_model.weight_adapters import formats, text_decoder_weights
from mllama.nn.layers.linear import Encodings
from mllama.weights import llama_config
from mllama.weights.llama_config import LlamaConfig
from mllama.weights.quantization_plan import GGUF_ENCODINGS

DRAFT_DECODER: Final = "mllama_draft_decoder"
"""The graph's name."""

_IRRELEVANT_FIELDS: Final = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    # The head is a weight of the graph either way.
    "tie_word_embeddings",
)
"""Fields of the configuration that the graph doesn't depend on."""


def activation_dtype(encoding: str) -> DType:
    """Returns the dtype of activations; GGUF blocks are multiplied with float32."""
    if encoding in GGUF_ENCODINGS:
        return DType.float32
    return supported_encoding_dtype(encoding)


def draft_kv_params(
    config: LlamaConfig, dtype: DType, device: DeviceRef
) -> MHAKVCacheParams:
    """Returns MAX's parameters of the draft model's KV cache.

    Args:
        config: The model's configuration.
        dtype: Data type of the activations, keys and values.
        device: The device that runs the model.
    """
    text = config.text_config
    return MHAKVCacheParams(
        dtype=dtype,
        n_kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        num_layers=text.num_hidden_layers,
        page_size=PAGE_SIZE,
        devices=[device],
    )


def draft_graph_spec(
    config: LlamaConfig,
    kv_params: MHAKVCacheParams,
    state_dict: Mapping[str, WeightData],
) -> LazyGraphSpec:
    """Returns the graph with its weights, not yet traced.

    Args:
        config: The model's configuration.
        kv_params: Its KV cache, which has the data type of the activations.
        state_dict: The tensors by canonical name, the head included.
    """
    encodings = formats(state_dict)
    dtype = kv_params.dtype
    (device,) = kv_params.devices
    decoder = LlamaTextDecoder(config, kv_params, dtype, device, encodings)
    decoder.load_state_dict(
        text_decoder_weights(state_dict, config, list(decoder.raw_state_dict()), dtype),
        weight_alignment=1,
    )
    return LazyGraphSpec(
        decoder,
        DRAFT_DECODER,
        decoder.input_types(),
        weights=decoder.state_dict(),
        fingerprint=_fingerprint(config, kv_params, encodings),
        # A saved model may have been compiled without it.
        is_required=False,
    )


def _fingerprint(
    config: LlamaConfig, kv_params: MHAKVCacheParams, encodings: Encodings
) -> str:
    """Returns a text with all that the graph depends on, except the sources that the
    manifest of compiled graphs covers."""
    text = asdict(config.text_config)
    for name in _IRRELEVANT_FIELDS:
        del text[name]
    return str(
        {
            "config": text,
            "dtype": kv_params.dtype,
            "devices": kv_params.devices,
            "encodings": sorted(
                (name, encoding.name) for name, encoding in encodings.items()
            ),
            "sources": _sources_digest(),
        }
    )


@functools.cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for file in (__file__, network.__file__, llama_config.__file__):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]
