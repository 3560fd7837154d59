"""In bytes the projector is that of floats, however layers' states differ in size."""

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
from mllama.max_model.weight_adapters import quantize_vision
from mllama.nn.vision.projector import Int8Projector
from mllama.weights.quantization_plan import PROJECTOR
from tests.reference.checkpoints import checkpoint
from tests.reference.compare import spread_error

HOST = DeviceRef.CPU()
BIAS = "multi_modal_projector.bias"
IMAGES, ROWS = 2, 7

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(HOST), reason="this CPU lacks what own operations need"
)


def test_small_states_count_beside_large_ones() -> None:
    config = MllamaConfig.from_path(checkpoint())
    vision, columns = config.vision_config, config.text_config.hidden_size
    width, layers = vision.hidden_size, len(vision.intermediate_layers_indices)
    chance = np.random.default_rng(0)
    # What a layer's states are larger by, its weights are smaller: all count the same.
    sizes = np.geomspace(0.01, 100, 1 + layers)
    states = [
        chance.normal(0, size, (IMAGES, ROWS, width)).astype(np.float32)
        for size in sizes
    ]
    matrices = [
        chance.normal(0, 1 / size, (columns, width)).astype(np.float32)
        for size in sizes
    ]
    bias = chance.normal(0, 10, columns).astype(np.float32)
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

    found = model.execute(*states)[0].to_numpy()

    wanted = bias + sum(
        state.astype(np.float64) @ matrix.T
        for state, matrix in zip(states, matrices, strict=True)
    )
    assert found.shape == (IMAGES, ROWS, columns)
    assert spread_error(found, wanted).max() < 0.02
