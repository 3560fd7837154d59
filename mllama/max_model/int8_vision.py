"""Quantizes the vision side's matrices to int8, as they load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from max.dtype import DType
from max.graph import Shape
from max.graph.weights import WeightData

from mllama.config import MllamaConfig, MllamaVisionConfig
from mllama.kernels.ops.int8_matmul import quantize_int8
from mllama.weights.quantization_plan import PROJECTOR, int8_vision_formats


def quantize_vision(
    state_dict: Mapping[str, WeightData], config: MllamaConfig
) -> dict[str, WeightData]:
    """Quantizes the vision encoder's and projector's matrices to int8.

    Args:
        state_dict: Tensors by canonical name.
        config: The model's configuration.

    Returns:
        All tensors, and for each int8 matrix ``NAME.weight`` its scales ``NAME.scale``,
        float32 ``[columns]``.
    """
    result = dict(state_dict)
    # Missing tensors are reported later, with the others.
    names = [name for name in int8_vision_formats(config) if name in state_dict]

    def quantized(name: str) -> list[WeightData]:
        floats = state_dict[name].astype(DType.float32).to_buffer().to_numpy()
        parts = {name: floats}
        if name == PROJECTOR:
            parts = _projector_parts(floats, config.vision_config)
        return [data for part in parts.items() for data in _int8_weights(*part)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, weights in zip(names, pool.map(quantized, names), strict=True):
            del result[name]
            result.update((data.name, data) for data in weights)
    return result


def _int8_weights(name: str, floats: npt.NDArray[np.float32]) -> list[WeightData]:
    levels, scales = quantize_int8(floats)
    scale = f"{name.removesuffix('weight')}scale"
    return [
        WeightData(levels, name, DType.int8, Shape(levels.shape)),
        WeightData(scales, scale, DType.float32, Shape(scales.shape)),
    ]


def _projector_parts(
    weight: npt.NDArray[np.float32], config: MllamaVisionConfig
) -> dict[str, npt.NDArray[np.float32]]:
    """Splits the projector by the vision layer whose states each part multiplies.

    Returns:
        The parts, named as in :class:`~mllama.nn.vision.projector.Int8Projector`.
    """
    width = config.hidden_size
    joined = weight[:, width:].reshape(len(weight), width, -1)
    parts = [weight[:, :width], *np.moveaxis(joined, -1, 0)]
    stem = PROJECTOR.removesuffix("weight")
    return {f"{stem}parts.{index}.weight": part for index, part in enumerate(parts)}
