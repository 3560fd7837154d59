"""Pages of the image cache in int8, as the host reads and fills them.

The values of a head are followed by the bytes of their float32 scale, see
:mod:`mllama.nn.layers.image_cache_inputs`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mllama.kernels.ops.attention import SCALE_BYTES


def dequantized(content: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Returns values times their scales.

    Args:
        content: ``[..., head dim + 4]``.

    Returns:
        ``[..., head dim]``.
    """
    scales = np.ascontiguousarray(content[..., -SCALE_BYTES:]).view(np.float32)
    return content[..., :-SCALE_BYTES] * scales


def filled(shape: tuple[int, ...], value: float) -> npt.NDArray[np.int8]:
    """Returns content that represents one value exactly.

    Args:
        shape: ``(..., head dim + 4)``.
        value: The value of all heads and tokens.
    """
    content = np.ones(shape, np.int8)
    content[..., -SCALE_BYTES:] = np.array([value], np.float32).view(np.int8)
    return content
