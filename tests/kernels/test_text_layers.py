"""Checks which ops the text graph uses, without compiling it."""

from __future__ import annotations

import pytest
from max.dtype import DType
from max.graph import DeviceRef
from max.graph.quantization import QuantizationEncoding
from max.nn.kv_cache import MHAKVCacheParams

from mllama.config import MllamaConfig
from mllama.kernels import dispatch
from mllama.kernels.ops.attention import PAGE_SIZE
from mllama.max_compat.compiler import ensure_default_mlir_context
from mllama.nn.text_decoder import MllamaTextDecoder
from mllama.weights.quantization_plan import quantization_plan
from tests.reference.checkpoints import checkpoint

CUSTOM_OPS = (
    "mllama_gguf_matmul",
    "mllama_gguf_fused_qkv",
    "mllama_gguf_fused_gate_up",
    "mllama_causal_attention",
)
MAX_OPS = ("vroom", "mo.mha.ragged.paged")


def trace_graph(page_size: int = PAGE_SIZE) -> str:
    """Returns the text graph of a small model in q4_k, with its subgraphs.

    Args:
        page_size: Tokens of a page of its KV cache.
    """
    config = MllamaConfig.from_path(checkpoint())
    text = config.text_config
    encodings = {
        name: QuantizationEncoding[kind.name]
        for name, kind in quantization_plan(config, "q4_k").items()
        if kind.name in QuantizationEncoding.__members__
    }

    def cache(layers: int, page_size: int) -> MHAKVCacheParams:
        return MHAKVCacheParams(
            dtype=DType.float32,
            n_kv_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            num_layers=layers,
            page_size=page_size,
            devices=[DeviceRef.CPU()],
        )

    num_cross_attention = len(text.cross_attention_layers)
    decoder = MllamaTextDecoder(
        config,
        cache(text.num_hidden_layers - num_cross_attention, page_size),
        cache(num_cross_attention, PAGE_SIZE),
        DType.float32,
        DeviceRef.CPU(),
        encodings=encodings,
    )
    for name, weight in decoder.raw_state_dict().items():
        weight.name = name
    with ensure_default_mlir_context():
        graph = decoder.trace(*decoder.input_types())
        return str(graph._module)


def test_the_graph_uses_custom_ops_if_the_cpu_supports_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    graph = trace_graph()
    assert all(name in graph for name in CUSTOM_OPS)
    assert not any(name in graph for name in MAX_OPS)


def test_other_page_sizes_use_maxs_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    graph = trace_graph(page_size=256)
    assert "mllama_causal_attention" not in graph
    assert "mo.mha.ragged.paged" in graph


def test_the_environment_variable_selects_maxs_ops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, dispatch.MAX)
    graph = trace_graph()
    assert not any(name in graph for name in CUSTOM_OPS)
    assert all(name in graph for name in MAX_OPS)
