"""Which operations cross-attention is made of, and what the pool holds."""

from __future__ import annotations

import dataclasses

import pytest
from max import tree
from max.dtype import DType
from max.graph import BufferValue, DeviceRef, Graph, TensorType, ops

from mllama.config import MllamaConfig
from mllama.kernels import choice
from mllama.kernels.pool_attention import OPERATIONS, suits
from mllama.network.cross_attention import (
    MllamaCrossAttentionKeysValues,
    MllamaTextCrossAttention,
)
from mllama.network.image_pool import (
    image_read_types,
    image_write_types,
    pool_dtype,
    pool_params,
)
from tests.reference.configs import tiny_config

CPU = DeviceRef.CPU()
OWN = {"mllama_image_attention", "mllama_image_store"}
MAXS = {"mo.cross_attention.ragged.paged", "mo.kv_cache.store.paged.ragged"}

needs_own = pytest.mark.skipif(
    not choice.uses_own(CPU), reason="this CPU lacks what own operations need"
)


def model(head_dim: int | None = None) -> MllamaConfig:
    config = MllamaConfig.from_dict(tiny_config().to_dict())
    if head_dim is None:
        return config
    text = config.text_config
    width = text.num_attention_heads * head_dim
    return dataclasses.replace(
        config, text_config=dataclasses.replace(text, hidden_size=width)
    )


def traced(config: MllamaConfig, dtype: DType, pool: DType) -> str:
    """Both sides of a cross-attention layer, as MAX's compiler sees them."""
    params = pool_params(config, pool, [CPU])
    text = config.text_config
    layer = MllamaTextCrossAttention(text, params, dtype, CPU, 1, {}, "layer")
    images = MllamaCrossAttentionKeysValues(text, dtype, CPU, 1, {}, "layer")
    for number, module in enumerate((layer, images)):
        for name, weight in module.raw_state_dict().items():
            weight.name = f"{number}.{name}"
    (reads,), (writes,) = image_read_types(params), image_write_types(params)
    read_leaves, read_form = tree.flatten(reads)
    write_leaves, write_form = tree.flatten(writes)

    own = [choice.operations(OPERATIONS)] if choice.uses_own(CPU) else []
    with Graph(
        "layer",
        input_types=[
            TensorType(dtype, ["total_seq_len", text.hidden_size], CPU),
            TensorType(dtype, ["image_rows", text.hidden_size], CPU),
            *read_leaves,
            *write_leaves,
        ],
        custom_extensions=own,
    ) as graph:
        rows, states, *others = graph.inputs
        read = tree.unflatten(read_form, iter(others[: len(read_leaves)]))
        write = tree.unflatten(write_form, iter(others[len(read_leaves) :]))
        assert isinstance(write.pages.kv_blocks, BufferValue)
        layer_idx = ops.constant(0, DType.uint32, CPU)
        images.store(layer_idx, states.tensor, write)
        graph.output(layer(layer_idx, rows.tensor, read))
    return str(graph)


def used(text: str) -> set[str]:
    return {name for name in OWN | MAXS if f'"{name}"' in text}


@needs_own
@pytest.mark.parametrize("pool", [DType.float32, DType.bfloat16])
def test_own_operations_where_they_can(pool: DType) -> None:
    assert used(traced(model(), DType.float32, pool)) == OWN


@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(None, DType.bfloat16), (12, DType.float32)]
)
def test_maxs_for_what_they_were_not_made_for(
    head_dim: int | None, dtype: DType
) -> None:
    """Activations in bfloat16, and heads that are no whole vectors."""
    assert used(traced(model(head_dim), dtype, dtype)) == MAXS


@pytest.mark.parametrize("asked", [True, False])
def test_maxs_where_they_are_asked_for_or_the_cpu_is_another(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    if asked:
        monkeypatch.setenv(choice.VARIABLE, "max")
    else:
        monkeypatch.setattr(choice, "cpu_features", lambda: ("aarch64", "asimd"))
    assert used(traced(model(), DType.float32, DType.float32)) == MAXS
    assert pool_dtype(model(), DType.float32, CPU, is_blocks=True) is DType.float32


@needs_own
def test_the_pool_is_bfloat16_beside_weights_in_blocks() -> None:
    def dtype(activations: DType, *, is_blocks: bool) -> DType:
        return pool_dtype(model(), activations, CPU, is_blocks=is_blocks)

    assert dtype(DType.float32, is_blocks=True) is DType.bfloat16
    assert dtype(DType.float32, is_blocks=False) is DType.float32
    assert dtype(DType.bfloat16, is_blocks=False) is DType.bfloat16
    assert pool_dtype(model(12), DType.float32, CPU, is_blocks=True) is DType.float32


def test_no_gpu_uses_them() -> None:
    assert not suits(64, DType.float32, DType.float32, DeviceRef.GPU(0))
