"""Which operations cross-attention is made of, and what the pool holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from max import tree
from max.driver import CPU as Processor
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import BufferValue, DeviceRef, Graph, TensorType, ops

from mllama.config import MllamaConfig
from mllama.image_cache.storage import ImageCacheStorage, ReadSegment
from mllama.kernels import dispatch
from mllama.kernels.dispatch import mojo_package
from mllama.kernels.ops.attention import MOJO_PACKAGE, supports
from mllama.nn.layers.image_cache_inputs import (
    image_cache_dtype,
    image_cache_params,
    image_read_types,
    image_write_types,
)
from mllama.nn.text.cross_attention import (
    MllamaCrossAttentionKeysValues,
    MllamaTextCrossAttention,
)
from tests.reference.configs import tiny_config

CPU = DeviceRef.CPU()
OWN = {"mllama_image_attention", "mllama_store_image_kv"}
MAXS = {"mo.cross_attention.ragged.paged", "mo.kv_cache.store.paged.ragged"}

needs_own = pytest.mark.skipif(
    not dispatch.uses_custom_ops(CPU), reason="this CPU lacks what own operations need"
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
    params = image_cache_params(config, pool, [CPU])
    text = config.text_config
    layer = MllamaTextCrossAttention(text, params, dtype, CPU, 1, {}, "layer")
    images = MllamaCrossAttentionKeysValues(text, dtype, CPU, 1, {}, "layer")
    for number, module in enumerate((layer, images)):
        for name, weight in module.raw_state_dict().items():
            weight.name = f"{number}.{name}"
    (reads,), (writes,) = image_read_types(params), image_write_types(params)
    read_leaves, read_form = tree.flatten(reads)
    write_leaves, write_form = tree.flatten(writes)

    own = [mojo_package(MOJO_PACKAGE)] if dispatch.uses_custom_ops(CPU) else []
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


KINDS = {"max": DType.float32, "own": DType.float32, "bfloat16": DType.bfloat16}
"""Of the pool."""


class Variants:
    """One graph that stores the same images and attends to them by MAX's operations,
    by own ones, and by own ones with a pool in bfloat16."""

    def __init__(self, config: MllamaConfig) -> None:
        text = config.text_config
        self.width = text.hidden_size
        self.params = {
            kind: image_cache_params(config, pool, [CPU])
            for kind, pool in KINDS.items()
        }
        layer = MllamaTextCrossAttention(
            text, self.params["max"], DType.float32, CPU, 1, {}, "layer"
        )
        images = MllamaCrossAttentionKeysValues(
            text, DType.float32, CPU, 1, {}, "layer"
        )
        chance = np.random.default_rng(0)
        registry = {}
        for number, module in enumerate((layer, images)):
            for name, weight in module.raw_state_dict().items():
                weight.name = f"{number}.{name}"
                shape = [int(dim) for dim in weight.shape]
                spread = 0.3 if len(shape) == 1 else 2 * shape[1] ** -0.5
                registry[weight.name] = chance.normal(0, spread, shape).astype("f4")
        types: list[Any] = [
            TensorType(DType.float32, ["total_seq_len", self.width], CPU),
            TensorType(DType.float32, ["image_rows", self.width], CPU),
        ]
        forms = {}
        for kind, params in self.params.items():
            both = (image_write_types(params)[0], image_read_types(params)[0])
            leaves, forms[kind] = tree.flatten(both)
            types += leaves
        with Graph(
            "variants",
            input_types=types,
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        ) as graph:
            rows, states, *others = graph.inputs
            layer_idx = ops.constant(0, DType.uint32, CPU)
            outputs = []
            size = len(others) // len(forms)
            for kind, form in forms.items():
                mine, others = others[:size], others[size:]
                write, read = tree.unflatten(form, iter(mine))
                # One value for both: MAX orders operations by the buffer they name.
                read.pages.kv_blocks = write.pages.kv_blocks
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv(dispatch.VARIABLE, "max" if kind == "max" else "auto")
                    images.store(layer_idx, states.tensor, write)
                    outputs.append(layer(layer_idx, rows.tensor, read))
            graph.output(*outputs)
        self.model = InferenceSession(devices=[Processor()]).load(
            graph, weights_registry=registry
        )

    def __call__(
        self, rows: np.ndarray, states: np.ndarray, lengths: list[int]
    ) -> dict[str, np.ndarray]:
        """Attended rows of each kind: of two images of equal size, the first segment
        sees none, the second the first, the third both."""
        inputs: list[Any] = []
        count = len(states) // 2
        for params in self.params.values():
            store = ImageCacheStorage(params, [Processor()], 20)
            keys = ((1,), (2, 3))
            store.blocks.reserve(
                "request", {keys[0]: (count,), keys[1]: (count, count)}
            )
            one, two = (store.blocks.pinned("request", key) for key in keys)
            (write,) = store.write_inputs([(one, 0), (two, 1)], count)
            (read,) = store.read_inputs(
                [
                    ReadSegment(lengths[0], None, 0),
                    ReadSegment(lengths[1], one, count),
                    ReadSegment(lengths[2], two, 2 * count),
                ]
            )
            inputs += tree.leaves((write, read))
        outputs = self.model.execute(rows, states, *inputs)
        return {
            kind: output.to_numpy() for kind, output in zip(KINDS, outputs, strict=True)
        }


@pytest.fixture(scope="module")
def variants() -> Variants:
    return Variants(model())


@needs_own
@pytest.mark.parametrize("lengths", [[1, 1, 1], [3, 1, 70], [2, 200, 2]])
@pytest.mark.parametrize("count", [5, 300])
def test_own_operations_give_what_maxs_give(
    variants: Variants, lengths: list[int], count: int
) -> None:
    chance = np.random.default_rng(count)
    rows, states = (
        chance.normal(0, 1, (number, variants.width)).astype(np.float32)
        for number in (sum(lengths), 2 * count)
    )
    found = variants(rows, states, lengths)
    wanted = found["max"]
    assert wanted.std() > 0.05
    np.testing.assert_allclose(found["own"], wanted, rtol=0, atol=2e-5)
    error = np.abs(found["bfloat16"] - wanted).max() / wanted.std()
    assert 1e-4 < error < 0.05


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
        monkeypatch.setenv(dispatch.VARIABLE, "max")
    else:
        monkeypatch.setattr(dispatch, "cpu_features", lambda: ("aarch64", "asimd"))
    assert used(traced(model(), DType.float32, DType.float32)) == MAXS
    assert (
        image_cache_dtype(model(), DType.float32, CPU, is_blocks=True) is DType.float32
    )


@needs_own
def test_the_pool_is_bfloat16_beside_weights_in_blocks() -> None:
    def dtype(activations: DType, *, is_blocks: bool) -> DType:
        return image_cache_dtype(model(), activations, CPU, is_blocks=is_blocks)

    assert dtype(DType.float32, is_blocks=True) is DType.bfloat16
    assert dtype(DType.float32, is_blocks=False) is DType.float32
    assert dtype(DType.bfloat16, is_blocks=False) is DType.bfloat16
    assert (
        image_cache_dtype(model(12), DType.float32, CPU, is_blocks=True)
        is DType.float32
    )


def test_no_gpu_uses_them() -> None:
    assert not supports(64, DType.float32, DType.float32, DeviceRef.GPU(0))
