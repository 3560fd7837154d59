"""Which products with blocks the text graph is made of, without compiling it."""

from __future__ import annotations

import pytest
from max.dtype import DType
from max.graph import DeviceRef
from max.graph.quantization import QuantizationEncoding
from max.nn.kv_cache import MHAKVCacheParams
from max.nn.transformer import ReturnLogits

from mllama.config import MllamaConfig
from mllama.kernels import choice
from mllama.max_compiler_api import ensure_default_mlir_context
from mllama.network.image_pool import PAGE_SIZE
from mllama.network.text_decoder import MllamaTextDecoder
from mllama.weights.quantisation_plan import quantisation_plan
from tests.reference.checkpoints import checkpoint

OWN = (
    "mllama_block_product",
    "mllama_three_block_products",
    "mllama_gated_block_product",
)


def traced() -> str:
    """The text graph of a small model in q4_k, with its subgraphs."""
    config = MllamaConfig.from_path(checkpoint())
    text = config.text_config
    encodings = {
        name: QuantizationEncoding[kind.name]
        for name, kind in quantisation_plan(config, "q4_k").items()
        if kind.name in QuantizationEncoding.__members__
    }

    def cache(layers: int) -> MHAKVCacheParams:
        return MHAKVCacheParams(
            dtype=DType.float32,
            n_kv_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            num_layers=layers,
            page_size=PAGE_SIZE,
            devices=[DeviceRef.CPU()],
        )

    crossing = len(text.cross_attention_layers)
    decoder = MllamaTextDecoder(
        config,
        cache(text.num_hidden_layers - crossing),
        cache(crossing),
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


def test_own_products_are_used_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "cpu_features", lambda: choice._NEEDED)
    graph = traced()
    assert all(name in graph for name in OWN)
    assert "vroom" not in graph


def test_products_are_max_s_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, choice.MAX)
    graph = traced()
    assert not any(name in graph for name in OWN)
    assert "vroom" in graph
