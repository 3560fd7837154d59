"""One network over several devices: tensor parallelism as in MAX's own Llama.

Modules are written for one device and take the number of shards: attention has its
heads divided by it, a feed-forward network its inner width.  What they return is then
one device's share of a sum.  :func:`shard_module` builds the network once as a whole,
for the names and values of its weights, and once for each device, with slices of those
weights.  On one device the whole is its only shard, and nothing here is part of its
graph.

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

_BY_ROWS = frozenset(
    ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "fc1", "lm_head"]
)
"""Layers whose outputs are divided: each device computes some of the heads, of the
inner width or of the vocabulary."""

_BY_COLUMNS = frozenset(["o_proj", "down_proj", "fc2", "embed_tokens"])
"""Layers whose inputs are divided, so that each device's output is a share of a sum;
and the embedding, of which each device looks up some columns.  All others are
replicated, or lie on the first device."""


class Sharded(Module):
    """A module whose call spans all devices.

    Attributes:
        shards: This module on each device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shards: list[Self] = [self]


def shard_module(
    build: Callable[[DeviceRef, int], _M], devices: Sequence[DeviceRef]
) -> _M:
    """A network over devices.

    Args:
        build: Makes the network for a device that computes one of so many shards.
        devices: Where it runs; their number divides the attention heads.

    Returns:
        The whole network: weights are loaded into it, and it is called.
    """
    whole = build(devices[0], 1)
    if len(devices) == 1:
        return whole
    shards = [build(device, len(devices)) for device in devices]
    for (path, module), *named in zip(
        whole.named_modules(),
        *(shard.named_modules() for shard in shards),
        strict=True,
    ):
        parts = [part for _, part in named]
        if isinstance(module, Sharded):
            module.shards = parts
        layer = path.rstrip(".").rpartition(".")[2]
        for name, weight in module.layer_weights.items():
            weights = _divided(weight, layer, devices)
            for part, value in zip(parts, weights, strict=True):
                setattr(part, name, value)
    return whole


def _divided(
    weight: Weight, layer: str, devices: Sequence[DeviceRef]
) -> Sequence[Weight | None]:
    """What each device has of a weight of a layer."""
    if layer in _BY_ROWS:
        weight.sharding_strategy = ShardingStrategy.rowwise(len(devices))
    elif layer in _BY_COLUMNS and weight.name != "bias":
        weight.sharding_strategy = ShardingStrategy.columnwise(len(devices))
    else:
        weight.sharding_strategy = ShardingStrategy.replicate(len(devices))
    shards: list[Weight | None] = weight.shard(devices)
    if layer in _BY_COLUMNS and weight.name == "bias":
        # It is part of the sum once.
        shards[1:] = [None] * (len(devices) - 1)
    return shards


def signal_types(devices: Sequence[DeviceRef]) -> list[BufferType]:
    """Inputs of a graph over several GPUs: memory through which they synchronize.

    None for one device, nor for a CPU that stands for several.
    """
    if len(devices) == 1 or devices[0].is_cpu():
        return []
    return list(Signals(devices).input_types())


def all_reduce(
    shares: Sequence[TensorValue], signals: Sequence[BufferValue]
) -> list[TensorValue]:
    """The sum of all devices' tensors, on each device."""
    if signals:
        return list(ops.allreduce.sum(shares, signals))
    return [reduce(add, shares)] * len(shares)


def feed_forward_sum(
    shards: Sequence[Any],
    hidden_states: Sequence[TensorValue],
    signals: Sequence[BufferValue],
) -> list[TensorValue]:
    """What a layer's norm and feed-forward network add, on each device.

    Args:
        shards: Of the layer, with ``post_attention_layernorm`` and ``mlp``.
        hidden_states: What attention has left, on each device.
        signals: As in :func:`signal_types`.
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
    """All devices' tensors joined along the last axis, on each device."""
    if signals:
        return list(ops.allgather(parts, signals, axis=-1))
    joined = ops.concat(list(parts), axis=-1) if len(parts) > 1 else parts[0]
    return [joined] * len(parts)


def broadcast(
    value: TensorValue, devices: int, signals: Sequence[BufferValue]
) -> list[TensorValue]:
    """The first device's tensor on each of so many devices."""
    if signals:
        return list(ops.distributed_broadcast(value, signals))
    return [value] * devices
