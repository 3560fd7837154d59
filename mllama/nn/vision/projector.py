"""The projector from the vision side's states to the width of the text side.

A row that it projects joins states of several layers: the last one's, then those of
``intermediate_layers_indices``, value by value in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from max.dtype import DType
from max.graph import DeviceRef, TensorValue, Weight, ops
from max.nn.layer import LayerList, Module
from max.nn.linear import Linear

from mllama.config import MllamaConfig
from mllama.nn.vision.linear import Int8Linear


def joined(states: Sequence[TensorValue]) -> TensorValue:
    """States of layers, each ``[images, rows, hidden]``, as the projector's weights
    have them: ``[images, rows, vision output dim]``."""
    last, *others = states
    images, rows, width = last.shape
    # Stacked along the last dimension at once they would take twice the time.
    intermediate = ops.transpose(ops.stack(others, axis=-2), -1, -2)
    return ops.concat(
        [last, ops.reshape(intermediate, [images, rows, width * len(others)])], axis=-1
    )


class FloatProjector(Linear):
    """The projector as the checkpoint has it."""

    def __init__(self, config: MllamaConfig, dtype: DType, device: DeviceRef) -> None:
        super().__init__(
            config.vision_config.vision_output_dim,
            config.text_config.hidden_size,
            dtype,
            device,
            has_bias=True,
        )

    def __call__(self, states: Sequence[TensorValue]) -> TensorValue:
        """States of layers to ``[images, rows, text hidden]``."""
        return super().__call__(joined(states))


class Int8Projector(Module):
    """The same in bytes: a sum of a product for each layer's states.

    Layers differ too much in the size of their states for one scale in a row of all.
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
        """States of layers to ``[images, rows, text hidden]``."""
        total = TensorValue(self.bias)
        for part, state in zip(self.parts, states, strict=True):
            total = part(state, total)
        return total
