"""The graph that returns the queries of cross-attention, for attention maps.

A model has it only where maps are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from max.graph import DeviceRef
from max.graph.weights import WeightData

from mllama.compilation.lazy_graph import LazyGraphSpec
from mllama.max_model.graphs import TEXT_DECODER, graph_fingerprints
from mllama.max_model.weight_adapters import formats, text_decoder_weights
from mllama.nn.layers.linear import Encodings
from mllama.nn.layers.tensor_parallel import shard_module
from mllama.nn.text_queries import MllamaTextQueries

if TYPE_CHECKING:
    from mllama.max_model.model_config import MllamaArchConfig

TEXT_QUERIES: Final = "mllama_text_queries"
"""The graph's name."""


def text_queries(config: MllamaArchConfig, encodings: Encodings) -> MllamaTextQueries:
    """Builds the network of the graph on all devices, without weights.

    Args:
        config: The model's resolved configuration.
        encodings: Encodings of the tensors in GGUF blocks, by name.
    """

    def build(device: DeviceRef, num_shards: int) -> MllamaTextQueries:
        return MllamaTextQueries(
            config.model,
            config.kv_params,
            config.image_cache_params,
            config.dtype,
            device,
            num_shards,
            encodings=encodings,
        )

    return shard_module(build, config.devices)


def query_graph_spec(
    config: MllamaArchConfig, state_dict: Mapping[str, WeightData]
) -> LazyGraphSpec:
    """Returns the graph with its weights, not yet traced.

    Args:
        config: The model's resolved configuration.
        state_dict: The checkpoint's tensors by canonical name.
    """
    encodings = formats(state_dict)
    network = text_queries(config, encodings)
    network.load_state_dict(
        text_decoder_weights(
            state_dict, config.model, list(network.raw_state_dict()), config.dtype
        ),
        weight_alignment=1,
    )
    return lazy_query_graph(config, encodings, network, network.state_dict())


def lazy_query_graph(
    config: MllamaArchConfig,
    encodings: Encodings,
    network: MllamaTextQueries,
    weights: Mapping[str, Any] | None = None,
) -> LazyGraphSpec:
    """Returns the graph of a network whose weights have their names.

    Args:
        config: The model's resolved configuration.
        encodings: Encodings of the tensors in GGUF blocks, by name.
        network: The network.
        weights: Its weights by name; None where they aren't read.
    """
    return LazyGraphSpec(
        network,
        TEXT_QUERIES,
        network.input_types(),
        weights=weights,
        # It depends on the same things as the text graph.
        fingerprint=graph_fingerprints(config, encodings)[TEXT_DECODER],
        # A saved model may have been compiled without it.
        is_required=False,
    )
