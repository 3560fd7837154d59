"""The two graphs of a model; each is compiled and cached separately."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from max.driver import CPU, Buffer, Device
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef
from max.graph.weights import WeightData
from max.nn.layer import Module

from mllama.compilation.graph_compiler import GraphCompiler
from mllama.compilation.lazy_graph import LazyGraphSpec
from mllama.compilation.manifest import config_hash
from mllama.compilation.store import CompiledStore, GraphKey
from mllama.config.rope import rotary_table
from mllama.max_compat.model import GraphRole
from mllama.max_model.weight_adapters import (
    formats,
    image_encoder_weights,
    text_decoder_weights,
)
from mllama.nn.image_encoder import MllamaImageEncoder
from mllama.nn.layers.linear import Encodings
from mllama.nn.layers.tensor_parallel import shard_module
from mllama.nn.text_decoder import MllamaTextDecoder
from mllama.utils.bfloat16 import to_bfloat16

if TYPE_CHECKING:
    from mllama.max_model.model_config import MllamaArchConfig

IMAGE_ENCODER = "mllama_image_encoder"
TEXT_DECODER = "mllama_text_decoder"
"""The graphs' names."""


def image_encoder(config: MllamaArchConfig, encodings: Encodings) -> MllamaImageEncoder:
    """Builds the network of the vision graph on all devices, without weights.

    Args:
        config: The model's resolved configuration.
        encodings: Encodings of the tensors in GGUF blocks, by name.
    """

    def build(device: DeviceRef, num_shards: int) -> MllamaImageEncoder:
        return MllamaImageEncoder(
            config.model,
            config.image_cache_params,
            config.dtype,
            device,
            num_shards,
            encodings=encodings,
            int8_vision=config.int8_vision,
        )

    return shard_module(build, config.devices)


def text_decoder(config: MllamaArchConfig, encodings: Encodings) -> MllamaTextDecoder:
    """Builds the network of the text graph on all devices, without weights.

    Args:
        config: The model's resolved configuration.
        encodings: Encodings of the tensors in GGUF blocks, by name.
    """

    def build(device: DeviceRef, num_shards: int) -> MllamaTextDecoder:
        return MllamaTextDecoder(
            config.model,
            config.kv_params,
            config.image_cache_params,
            config.dtype,
            device,
            num_shards,
            encodings=encodings,
        )

    return shard_module(build, config.devices)


NETWORKS: Final[
    Mapping[
        str,
        Callable[[MllamaArchConfig, Encodings], MllamaImageEncoder | MllamaTextDecoder],
    ]
] = {IMAGE_ENCODER: image_encoder, TEXT_DECODER: text_decoder}
"""The functions that build the graphs' networks, by graph name."""


def graph_specs(
    config: MllamaArchConfig,
    state_dict: Mapping[str, WeightData],
    compiler: GraphCompiler,
) -> dict[str, LazyGraphSpec]:
    """Returns the text graph and the vision graph with their weights, not yet traced.

    Args:
        config: The model's resolved configuration.
        state_dict: The checkpoint's tensors by canonical name.
        compiler: Compiles the graphs.
    """
    encodings = formats(state_dict)
    networks = {name: build(config, encodings) for name, build in NETWORKS.items()}
    for name, select_weights in (
        (IMAGE_ENCODER, image_encoder_weights),
        (TEXT_DECODER, text_decoder_weights),
    ):
        network = networks[name]
        network.load_state_dict(
            select_weights(
                state_dict, config.model, list(network.raw_state_dict()), config.dtype
            ),
            weight_alignment=1,
        )
    fingerprints = graph_fingerprints(config, encodings)
    task = None
    if config.devices == [DeviceRef.CPU()]:
        task = partial(GraphCompilation, config, encodings)
    specs = {
        role: LazyGraphSpec(
            networks[name],
            name,
            networks[name].input_types(),
            weights=networks[name].state_dict(),
            fingerprint=fingerprints[name],
            task=task,
        )
        # The text graph comes first: another process may compile the vision graph.
        for role, name in (
            (GraphRole.DECODER, TEXT_DECODER),
            (GraphRole.VISION, IMAGE_ENCODER),
        )
    }
    if task is not None:
        compiler.compile_in_parallel(specs[GraphRole.VISION].trace())
    return specs


@dataclass(frozen=True)
class GraphCompilation:
    """A task that compiles a graph of a model on a CPU, in a separate process.

    Attributes:
        config: The model's resolved configuration.
        encodings: Encodings of the tensors in GGUF blocks, by name.
        key: The graph's key.
        directory: The directory to add the graph to.
    """

    config: MllamaArchConfig
    encodings: Encodings
    key: GraphKey
    directory: Path

    def run(self) -> None:
        """Compiles the graph and adds it to the directory."""
        network = NETWORKS[self.key.name](self.config, self.encodings)
        name_weights(network)
        graph = network.trace(*network.input_types(), name=self.key.name)
        compiled = InferenceSession(devices=[CPU()]).compile(graph)
        CompiledStore(self.directory).add(self.key, compiled.export_mef)


def name_weights(network: Module) -> None:
    """Names a network's weights as loading them would."""
    for name, weight in network.raw_state_dict().items():
        weight.name, weight.align = name, 1


def rotary_buffers(config: MllamaArchConfig, devices: Sequence[Device]) -> list[Buffer]:
    """Returns the text graph's rotary table on each device."""
    table = rotary_table(config.model.text_config, config.max_seq_len)
    if config.dtype is DType.bfloat16:
        host = Buffer.from_numpy(to_bfloat16(table)).view(DType.bfloat16)
    else:
        host = Buffer.from_numpy(table)
    return [host.to(device) for device in devices]


def graph_fingerprints(
    config: MllamaArchConfig, encodings: Encodings
) -> dict[str, str]:
    """Returns a text with all that a graph depends on except its input types, by graph
    name."""
    both = str(
        {
            "config": config_hash(config.model),
            "dtype": config.dtype,
            "devices": config.devices,
            "encodings": sorted(
                (name, encoding.name) for name, encoding in encodings.items()
            ),
        }
    )
    return {
        TEXT_DECODER: both,
        IMAGE_ENCODER: f"{both}, int8: {config.int8_vision}",
    }
