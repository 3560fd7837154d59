"""Compares the int8 projector with float32 for states of different magnitudes."""

from __future__ import annotations

import numpy as np
import pytest
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, Shape, TensorType
from max.graph.weights import WeightData

from mllama.config import MllamaConfig
from mllama.kernels.dispatch import mojo_package, uses_custom_ops
from mllama.kernels.ops.int8_matmul import MOJO_PACKAGE
from mllama.max_model.int8_vision import quantize_vision
from mllama.nn.vision.projector import Int8Projector
from mllama.weights.quantization_plan import PROJECTOR
from tests.reference.checkpoints import checkpoint
from tests.reference.compare import spread_error

HOST = DeviceRef.CPU()
BIAS = "multi_modal_projector.bias"
IMAGES, PATCHES = 2, 7

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(HOST), reason="this CPU doesn't support the custom ops"
)


def test_the_int8_projector_keeps_layers_of_small_states() -> None:
    config = MllamaConfig.from_path(checkpoint())
    vision, columns = config.vision_config, config.text_config.hidden_size
    width, layers = vision.hidden_size, len(vision.intermediate_layers_indices)
    rng = np.random.default_rng(0)
    # Large states have small weights, so that all layers contribute equally.
    sizes = np.geomspace(0.01, 100, 1 + layers)
    states = [
        rng.normal(0, size, (IMAGES, PATCHES, width)).astype(np.float32)
        for size in sizes
    ]
    matrices = [
        rng.normal(0, 1 / size, (columns, width)).astype(np.float32) for size in sizes
    ]
    bias = rng.normal(0, 10, columns).astype(np.float32)
    # Hugging Face stacks the intermediate layers along the last dimension.
    intermediate = np.stack(matrices[1:], axis=-1).reshape(columns, width * layers)
    floats = {
        PROJECTOR: np.concatenate([matrices[0], intermediate], axis=-1),
        BIAS: bias,
    }
    state_dict = quantize_vision(
        {
            name: WeightData(values, name, DType.float32, Shape(values.shape))
            for name, values in floats.items()
        },
        config,
    )
    projector = Int8Projector(config, HOST)
    projector.load_state_dict(
        {
            name: state_dict[f"multi_modal_projector.{name}"]
            for name in projector.raw_state_dict()
        },
        weight_alignment=1,
    )
    graph = Graph(
        "projector",
        lambda *inputs: projector([value.tensor for value in inputs]),
        input_types=[TensorType(DType.float32, ["images", "rows", width], HOST)]
        * len(states),
        custom_extensions=[mojo_package(MOJO_PACKAGE)],
    )
    model = InferenceSession(devices=[CPU()]).load(
        graph, weights_registry=projector.state_dict()
    )

    actual = model.execute(*states)[0].to_numpy()

    expected = bias + sum(
        state.astype(np.float64) @ matrix.T
        for state, matrix in zip(states, matrices, strict=True)
    )
    assert actual.shape == (IMAGES, PATCHES, columns)
    assert spread_error(actual, expected).max() < 0.02
