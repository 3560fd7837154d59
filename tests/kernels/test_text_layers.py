"""Which operations the text graph is made of, without compiling it."""

from __future__ import annotations

import pytest
from max.dtype import DType
from max.graph import DeviceRef
from max.graph.quantization import QuantizationEncoding
from max.nn.kv_cache import MHAKVCacheParams
from max.nn.transformer import ReturnLogits

from mllama.config import MllamaConfig
from mllama.kernels import dispatch
from mllama.kernels.ops.attention import PAGE_SIZE
from mllama.max_compat.compiler import ensure_default_mlir_context
from mllama.nn.text_decoder import MllamaTextDecoder
from mllama.weights.quantization_plan import quantization_plan
from tests.reference.checkpoints import checkpoint

OWN = (
    "mllama_gguf_matmul",
    "mllama_gguf_fused_qkv",
    "mllama_gguf_fused_gate_up",
    "mllama_causal_attention",
)
MAXS = ("vroom", "mo.mha.ragged.paged")


def traced(page_size: int = PAGE_SIZE) -> str:
    """The text graph of a small model in q4_k, with its subgraphs.

    Args:
        page_size: Rows of a page of its KV cache.
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

    crossing = len(text.cross_attention_layers)
    decoder = MllamaTextDecoder(
        config,
        cache(text.num_hidden_layers - crossing, page_size),
        cache(crossing, PAGE_SIZE),
        DType.float32,
        DeviceRef.CPU(),
        return_logits=ReturnLogits.LAST_TOKEN,
        encodings=encodings,
    )
    for name, weight in decoder.raw_state_dict().items():
        weight.name = name
    with ensure_default_mlir_context():
        graph = decoder.trace(*decoder.input_types())
        return str(graph._module)


def test_own_operations_are_used_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    graph = traced()
    assert all(name in graph for name in OWN)
    assert not any(name in graph for name in MAXS)


def test_other_pages_of_the_kv_cache_are_left_to_max(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    graph = traced(page_size=256)
    assert "mllama_causal_attention" not in graph
    assert "mo.mha.ragged.paged" in graph


def test_operations_are_max_s_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, dispatch.MAX)
    graph = traced()
    assert not any(name in graph for name in OWN)
    assert all(name in graph for name in MAXS)
