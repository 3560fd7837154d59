"""How scattered attention maps are, which needs no labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_LEAST = 1e-12
"""Stands for no attention at all, whose logarithm is finite."""


def map_entropy(maps: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Returns the entropy of where in the pictures tokens look.

    It is that of the map as a distribution over the patches, minus the logarithm of the
    map's mass: a map with little of the attention says little.  Low is clear.

    Args:
        maps: ``[..., patches]``, the shares of attention on the patches.

    Returns:
        ``[...]``, in nats.
    """
    mass = np.maximum(maps.sum(axis=-1), _LEAST)
    shares = maps / mass[..., None]
    entropy = -(shares * np.log(np.maximum(shares, _LEAST))).sum(axis=-1)
    result: npt.NDArray[Any] = entropy - np.log(mass)
    return result
