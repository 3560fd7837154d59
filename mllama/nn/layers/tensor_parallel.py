"""Tensor parallelism: one network over several devices, as in MAX's Llama.

Modules are written for one device and take the number of shards, by which attention
divides its heads and a feed-forward network its inner width.  They then return a
partial sum.  :func:`shard_module` builds the whole network once, for the names and
values of its weights, and one shard for each device, with slices of those weights.  On
one device, the whole network is its only shard, and nothing in this file becomes part
of the graph.

Source: Megatron-LM (https://arxiv.org/abs/1909.08053), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeVar

from max.graph import (
    BufferType,
    BufferValue,
    DeviceRef,
    ShardingStrategy,
    TensorValue,
    Weight,
    ops,
)
from max.nn.comm import Signals
from max.nn.layer import Module
from typing_extensions import Self

_M = TypeVar("_M", bound="Sharded")

_COLUMN_PARALLEL = frozenset(
    ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "fc1", "lm_head"]
)
"""Layers whose outputs are divided among the devices: the heads, the inner width or the
vocabulary."""

_ROW_PARALLEL = frozenset(["o_proj", "down_proj", "fc2", "embed_tokens"])
"""Layers whose inputs are divided, so that each device computes a partial sum, and the
embedding, of which each device looks up some columns.  All other layers are replicated
or run on the first device."""


class Sharded(Module):
    """A module whose call spans all devices.

    Attributes:
        shards: The shard of this module on each device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shards: list[Self] = [self]


def shard_module(
    build: Callable[[DeviceRef, int], _M], devices: Sequence[DeviceRef]
) -> _M:
    """Builds a network and divides it among devices.

    Args:
        build: Builds one tensor-parallel shard of the network, given its device and the
            number of shards.
        devices: The devices; their number divides the attention heads.

    Returns:
        The whole network, which takes the weights and is called.
    """
    whole = build(devices[0], 1)
    if len(devices) == 1:
        return whole
    shards = [build(device, len(devices)) for device in devices]
    for (path, module), *named_shards in zip(
        whole.named_modules(),
        *(shard.named_modules() for shard in shards),
        strict=True,
    ):
        module_shards = [shard for _, shard in named_shards]
        if isinstance(module, Sharded):
            module.shards = module_shards
        layer = path.rstrip(".").rpartition(".")[2]
        for name, weight in module.layer_weights.items():
            weights = _shard_weight(weight, layer, devices)
            for shard, value in zip(module_shards, weights, strict=True):
                setattr(shard, name, value)
    return whole


def _shard_weight(
    weight: Weight, layer: str, devices: Sequence[DeviceRef]
) -> Sequence[Weight | None]:
    """Returns the slice of a layer's weight for each device; None where it has none."""
    if layer in _COLUMN_PARALLEL:
        weight.sharding_strategy = ShardingStrategy.rowwise(len(devices))
    elif layer in _ROW_PARALLEL and weight.name != "bias":
        weight.sharding_strategy = ShardingStrategy.columnwise(len(devices))
    else:
        weight.sharding_strategy = ShardingStrategy.replicate(len(devices))
    shards: list[Weight | None] = weight.shard(devices)
    if layer in _ROW_PARALLEL and weight.name == "bias":
        # Only one partial sum may contain the bias.
        shards[1:] = [None] * (len(devices) - 1)
    return shards


def signal_types(devices: Sequence[DeviceRef]) -> list[BufferType]:
    """Returns the types of the buffers through which several GPUs synchronize.

    One device needs none, nor does a CPU that stands in for several devices.
    """
    if len(devices) == 1 or devices[0].is_cpu():
        return []
    return list(Signals(devices).input_types())


def all_reduce(
    partial_sums: Sequence[TensorValue], signals: Sequence[BufferValue]
) -> list[TensorValue]:
    """Returns the sum of all devices' tensors, on each device."""
    if signals:
        return list(ops.allreduce.sum(partial_sums, signals))
    return [reduce(add, partial_sums)] * len(partial_sums)


def feed_forward_sum(
    shards: Sequence[Any],
    hidden_states: Sequence[TensorValue],
    signals: Sequence[BufferValue],
) -> list[TensorValue]:
    """Returns the output of a layer's norm and feed-forward network, on each device.

    Args:
        shards: The layer's shards, with ``post_attention_layernorm`` and ``mlp``.
        hidden_states: The states after attention, on each device.
        signals: The buffers of :func:`signal_types`.
    """
    return all_reduce(
        [
            shard.mlp(shard.post_attention_layernorm(states))
            for shard, states in zip(shards, hidden_states, strict=True)
        ],
        signals,
    )


def all_gather(
    parts: Sequence[TensorValue], signals: Sequence[BufferValue]
) -> list[TensorValue]:
    """Concatenates all devices' tensors along the last axis, on each device."""
    if signals:
        return list(ops.allgather(parts, signals, axis=-1))
    whole = ops.concat(list(parts), axis=-1) if len(parts) > 1 else parts[0]
    return [whole] * len(parts)


def broadcast(
    value: TensorValue, devices: int, signals: Sequence[BufferValue]
) -> list[TensorValue]:
    """Returns the first device's tensor on each of several devices."""
    if signals:
        return list(ops.distributed_broadcast(value, signals))
    return [value] * devices
