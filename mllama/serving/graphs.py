"""The graphs of a model, each an artifact of its own so that it can be kept."""

from __future__ import annotations

from collections.abc import Mapping

from max.driver import Device
from max.graph import DeviceRef
from max.graph.weights import WeightData

from mllama.compiled.manifest import config_hash
from mllama.max_api import (
    LOGPROBS_HEAP_LEVELS,
    GraphRole,
    GraphSpec,
    log_probabilities_ragged_graph,
)
from mllama.network.image_encoder import MllamaImageEncoder
from mllama.network.text_decoder import MllamaTextDecoder
from mllama.serving.arch_config import MllamaArchConfig
from mllama.serving.compiling import UntracedGraph, UntracedSpec
from mllama.serving.model_weights import (
    formats,
    image_encoder_weights,
    text_decoder_weights,
)


def log_probabilities(device: Device) -> UntracedGraph:
    """MAX's graph of tokens' log probabilities."""
    ref = DeviceRef.from_device(device)
    return UntracedGraph(
        "ragged_logprobs",
        f"{ref}, {LOGPROBS_HEAP_LEVELS}",
        lambda: log_probabilities_ragged_graph(ref, levels=LOGPROBS_HEAP_LEVELS),
    )


def graph_specs(
    config: MllamaArchConfig, state_dict: Mapping[str, WeightData], max_length: int
) -> dict[str, GraphSpec]:
    """The vision graph and the text graph, with their weights, not traced yet.

    Args:
        config: What they are built from.
        state_dict: The checkpoint's tensors by canonical name.
        max_length: The context asked for or else the model's limit, in tokens; not what
            is left of it for the free memory, which is another at every start.
    """
    device = config.devices[0]
    encodings = formats(state_dict)
    description = str(
        {
            "config": config_hash(config.model),
            "dtype": config.dtype,
            "devices": config.devices,
            "encodings": sorted((name, kind.name) for name, kind in encodings.items()),
            "max_length": max_length,
            "return_logits": config.return_logits,
        }
    )
    image_encoder = MllamaImageEncoder(
        config.model, config.pool, config.dtype, device, encodings
    )
    image_encoder.load_state_dict(
        image_encoder_weights(
            state_dict,
            config.model,
            list(image_encoder.raw_state_dict()),
            config.dtype,
        ),
        weight_alignment=1,
    )
    text_decoder = MllamaTextDecoder(
        config.model,
        config.kv_params,
        config.pool,
        config.dtype,
        device,
        max_length=max_length,
        return_logits=config.return_logits,
        encodings=encodings,
    )
    text_decoder.load_state_dict(
        text_decoder_weights(
            state_dict,
            config.model,
            list(text_decoder.raw_state_dict()),
            config.dtype,
        ),
        weight_alignment=1,
    )
    return {
        GraphRole.VISION: UntracedSpec(
            image_encoder,
            "mllama_image_encoder",
            image_encoder.input_types(),
            weights=image_encoder.state_dict(),
            description=description,
        ),
        GraphRole.DECODER: UntracedSpec(
            text_decoder,
            "mllama_text_decoder",
            text_decoder.input_types(),
            weights=text_decoder.state_dict(),
            description=description,
        ),
    }
