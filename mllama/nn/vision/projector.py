"""The projector from the vision encoder's states to the width of the text decoder.

Its input concatenates the states of several layers: first those of the last layer, then
those of ``intermediate_layers_indices``, interleaved value by value.
"""

from __future__ import annotations

from collections.abc import Sequence

from max.dtype import DType
from max.graph import DeviceRef, TensorValue, Weight, ops
from max.nn.layer import LayerList, Module

from mllama.config import MllamaConfig
from mllama.nn.vision.linear import FloatLinear, Int8Linear


def concat_layers(states: Sequence[TensorValue]) -> TensorValue:
    """Concatenates the states of layers in the order of the projector's weights.

    Args:
        states: Those of the last layer, then the intermediate ones, each ``[images,
            patches, hidden]``.

    Returns:
        ``[images, patches, vision output dim]``.
    """
    last, *others = states
    images, patches, width = last.shape
    # Stacking along the last dimension directly takes twice the time.
    intermediate = ops.transpose(ops.stack(others, axis=-2), -1, -2)
    return ops.concat(
        [last, ops.reshape(intermediate, [images, patches, width * len(others)])],
        axis=-1,
    )


class FloatProjector(FloatLinear):
    """The projector with float weights."""

    def __init__(self, config: MllamaConfig, dtype: DType, device: DeviceRef) -> None:
        super().__init__(
            config.vision_config.vision_output_dim,
            config.text_config.hidden_size,
            dtype,
            device,
            has_bias=True,
        )

    def __call__(self, states: Sequence[TensorValue]) -> TensorValue:
        """Projects the states of layers to ``[images, patches, text hidden]``."""
        return super().__call__(concat_layers(states))


class Int8Projector(Module):
    """The projector in int8 (W8A8), as a sum of one product for each layer's states.

    The states of different layers differ too much in magnitude to share a scale.
    """

    def __init__(self, config: MllamaConfig, device: DeviceRef) -> None:
        super().__init__()
        vision, width = config.vision_config, config.text_config.hidden_size
        self.bias = Weight("bias", DType.float32, (width,), device)
        self.parts = LayerList(
            [
                Int8Linear(vision.hidden_size, width, device, has_bias=False)
                for _ in range(1 + len(vision.intermediate_layers_indices))
            ]
        )

    def __call__(self, states: Sequence[TensorValue]) -> TensorValue:
        """Projects the states of layers to ``[images, patches, text hidden]``."""
        total = TensorValue(self.bias)
        for part, state in zip(self.parts, states, strict=True):
            total = part(state, total)
        return total
