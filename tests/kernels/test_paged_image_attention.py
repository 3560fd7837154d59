"""Checks which ops cross-attention uses, and the data type of the image cache."""

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
from mllama.errors import ConfigError
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
CUSTOM_OPS = {"mllama_image_attention", "mllama_store_kv"}
MAX_OPS = {"mo.cross_attention.ragged.paged", "mo.kv_cache.store.paged.ragged"}

needs_custom_ops = pytest.mark.skipif(
    not dispatch.uses_custom_ops(CPU), reason="this CPU doesn't support the custom ops"
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


def trace_layer(config: MllamaConfig, dtype: DType, cache_dtype: DType) -> str:
    """Returns the graph of both sides of a cross-attention layer."""
    params = image_cache_params(config, cache_dtype, [CPU])
    text = config.text_config
    layer = MllamaTextCrossAttention(text, params, dtype, CPU, 1, {}, "layer")
    images = MllamaCrossAttentionKeysValues(text, dtype, CPU, 1, {}, "layer")
    for number, module in enumerate((layer, images)):
        for name, weight in module.raw_state_dict().items():
            weight.name = f"{number}.{name}"
    (reads,), (writes,) = image_read_types(params), image_write_types(params)
    read_leaves, read_form = tree.flatten(reads)
    write_leaves, write_form = tree.flatten(writes)

    custom_extensions = (
        [mojo_package(MOJO_PACKAGE)] if dispatch.uses_custom_ops(CPU) else []
    )
    with Graph(
        "layer",
        input_types=[
            TensorType(dtype, ["total_seq_len", text.hidden_size], CPU),
            TensorType(dtype, ["image_rows", text.hidden_size], CPU),
            *read_leaves,
            *write_leaves,
        ],
        custom_extensions=custom_extensions,
    ) as graph:
        tokens, states, *inputs = graph.inputs
        read = tree.unflatten(read_form, iter(inputs[: len(read_leaves)]))
        write = tree.unflatten(write_form, iter(inputs[len(read_leaves) :]))
        assert isinstance(write.pages.kv_blocks, BufferValue)
        layer_idx = ops.constant(0, DType.uint32, CPU)
        images.store(layer_idx, states.tensor, write)
        graph.output(layer(layer_idx, tokens.tensor, read))
    return str(graph)


KINDS = {
    "max": DType.float32,
    "custom": DType.float32,
    "bfloat16": DType.bfloat16,
    "int8": DType.int8,
}
"""Kinds of ops, and the data type of the image cache for each."""


class Variants:
    """A graph that stores the same images and attends to them with each kind of ops."""

    def __init__(self, config: MllamaConfig) -> None:
        text = config.text_config
        self.width = text.hidden_size
        self.params = {
            kind: image_cache_params(config, cache_dtype, [CPU])
            for kind, cache_dtype in KINDS.items()
        }
        layer = MllamaTextCrossAttention(
            text, self.params["max"], DType.float32, CPU, 1, {}, "layer"
        )
        images = MllamaCrossAttentionKeysValues(
            text, DType.float32, CPU, 1, {}, "layer"
        )
        rng = np.random.default_rng(0)
        registry = {}
        for number, module in enumerate((layer, images)):
            for name, weight in module.raw_state_dict().items():
                weight.name = f"{number}.{name}"
                shape = [int(dim) for dim in weight.shape]
                scale = 0.3 if len(shape) == 1 else 2 * shape[1] ** -0.5
                registry[weight.name] = rng.normal(0, scale, shape).astype("f4")
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
            tokens, states, *inputs = graph.inputs
            layer_idx = ops.constant(0, DType.uint32, CPU)
            outputs = []
            size = len(inputs) // len(forms)
            for kind, form in forms.items():
                kind_inputs, inputs = inputs[:size], inputs[size:]
                write, read = tree.unflatten(form, iter(kind_inputs))
                # The same value for both, since MAX orders ops by the buffer they name.
                read.pages.kv_blocks = write.pages.kv_blocks
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv(dispatch.VARIABLE, "max" if kind == "max" else "auto")
                    images.store(layer_idx, states.tensor, write)
                    outputs.append(layer(layer_idx, tokens.tensor, read))
            graph.output(*outputs)
        self.model = InferenceSession(devices=[Processor()]).load(
            graph, weights_registry=registry
        )

    def __call__(
        self, tokens: np.ndarray, states: np.ndarray, lengths: list[int]
    ) -> dict[str, np.ndarray]:
        """Returns the output of each kind, for two images of equal size.

        The first segment attends to the first image, and the second to both.
        """
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
            # Tokens without an image take no part.
            segments = [ReadSegment(3, None, 0)]
            for length, entry, keys_read in zip(
                lengths, (one, two), (count, 2 * count), strict=False
            ):
                segments.append(ReadSegment(length, entry, keys_read))
            (read,) = store.read_inputs(segments)
            inputs += tree.leaves((write, read))
        outputs = self.model.execute(tokens, states, *inputs)
        return {
            kind: output.to_numpy() for kind, output in zip(KINDS, outputs, strict=True)
        }


@pytest.fixture(scope="module")
def variants() -> Variants:
    return Variants(model())


@needs_custom_ops
@pytest.mark.parametrize("lengths", [[1, 1], [1, 70], [200, 2]])
@pytest.mark.parametrize("count", [5, 300])
def test_custom_ops_match_maxs(
    variants: Variants, lengths: list[int], count: int
) -> None:
    rng = np.random.default_rng(count)
    tokens, states = (
        rng.normal(0, 1, (number, variants.width)).astype(np.float32)
        for number in (sum(lengths), 2 * count)
    )
    actual = variants(tokens, states, lengths)
    expected = actual["max"]
    assert expected.std() > 0.05
    np.testing.assert_allclose(actual["custom"], expected, rtol=0, atol=2e-5)
    for kind in ("bfloat16", "int8"):
        error = np.abs(actual[kind] - expected).max() / expected.std()
        assert 1e-4 < error < 0.05


@needs_custom_ops
def test_a_batch_without_images_computes_nothing(variants: Variants) -> None:
    """MAX's kernels take an empty batch too."""
    tokens = np.zeros((0, variants.width), np.float32)
    states = np.ones((10, variants.width), np.float32)
    outputs = variants(tokens, states, [])
    assert {output.shape for output in outputs.values()} == {tokens.shape}


def used_ops(text: str) -> set[str]:
    return {name for name in CUSTOM_OPS | MAX_OPS if f'"{name}"' in text}


@needs_custom_ops
@pytest.mark.parametrize("cache_dtype", [DType.float32, DType.bfloat16, DType.int8])
def test_the_graph_uses_custom_ops_if_supported(cache_dtype: DType) -> None:
    assert used_ops(trace_layer(model(), DType.float32, cache_dtype)) == CUSTOM_OPS


@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(None, DType.bfloat16), (12, DType.float32)]
)
def test_unsupported_types_and_heads_use_maxs_ops(
    head_dim: int | None, dtype: DType
) -> None:
    """Neither activations in bfloat16 nor heads of partial vectors are supported."""
    assert used_ops(trace_layer(model(head_dim), dtype, dtype)) == MAX_OPS


@pytest.mark.parametrize("asked", [True, False])
def test_the_environment_or_another_cpu_selects_maxs_ops(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    if asked:
        monkeypatch.setenv(dispatch.VARIABLE, "max")
    else:
        monkeypatch.setattr(dispatch, "cpu_features", lambda: ("aarch64", "asimd"))
    assert used_ops(trace_layer(model(), DType.float32, DType.float32)) == MAX_OPS
    assert image_cache_dtype(model(), DType.float32, CPU, is_gguf=True) is DType.float32


@needs_custom_ops
def test_the_image_cache_is_bfloat16_beside_gguf_weights() -> None:
    def dtype(activations: DType, *, is_gguf: bool) -> DType:
        return image_cache_dtype(model(), activations, CPU, is_gguf=is_gguf)

    assert dtype(DType.float32, is_gguf=True) is DType.bfloat16
    assert dtype(DType.float32, is_gguf=False) is DType.float32
    assert dtype(DType.bfloat16, is_gguf=False) is DType.bfloat16
    assert (
        image_cache_dtype(model(12), DType.float32, CPU, is_gguf=True) is DType.float32
    )


@needs_custom_ops
def test_the_image_cache_has_the_requested_dtype() -> None:
    for requested in (DType.float32, DType.bfloat16, DType.int8):
        for is_gguf in (False, True):
            assert requested is image_cache_dtype(
                model(), DType.float32, CPU, is_gguf=is_gguf, requested=requested
            )


@pytest.mark.parametrize(
    ("head_dim", "dtype", "requested", "device"),
    [
        (12, DType.float32, DType.int8, CPU),
        (None, DType.bfloat16, DType.int8, CPU),
        (None, DType.bfloat16, DType.float32, CPU),
        (None, DType.float32, DType.bfloat16, DeviceRef.GPU(0)),
    ],
)
def test_a_dtype_that_the_ops_do_not_support_is_refused(
    head_dim: int | None, dtype: DType, requested: DType, device: DeviceRef
) -> None:
    with pytest.raises(ConfigError, match=f"in {requested.name} here, only in"):
        image_cache_dtype(
            model(head_dim), dtype, device, is_gguf=False, requested=requested
        )
    assert (
        image_cache_dtype(
            model(head_dim), dtype, device, is_gguf=False, requested=dtype
        )
        is dtype
    )


def test_gpus_are_not_supported() -> None:
    assert not supports(64, DType.float32, DType.float32, DeviceRef.GPU(0))
