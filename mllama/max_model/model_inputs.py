"""What the text graph reads in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from max import tree
from max.driver import Buffer
from max.pipelines.lib import ModelInputs

from mllama.image_cache.encoder_runner import PendingImage
from mllama.max_compat.model import KVCacheInputsPerDevice
from mllama.nn.layers.image_cache_inputs import ImageReadInputs

_LENGTH_IN_METADATA = 3
"""Where MAX's metadata of an attention have the length of the longest request."""


@dataclass(kw_only=True)
class MllamaInputs(ModelInputs):
    """One step's inputs."""

    tokens: Buffer
    input_row_offsets: Buffer
    return_n_logits: Buffer
    reads: list[ImageReadInputs[Buffer, Buffer]]
    pending: list[PendingImage]

    @cached_property
    def buffers(self) -> list[Buffer]:
        """What differs from step to step, in the graph's order."""
        return [
            self.tokens,
            self.input_row_offsets,
            self.return_n_logits,
            *tree.leaves(self.reads),
            *tree.leaves(self.kv_cache_inputs),
        ]

    def advance(self, tokens: Sequence[int]) -> None:
        """Makes them those of the next step of the same requests, in place.

        Only on a CPU, and if each request adds one token, as it did in this step, for
        which it needs no further block of the KV cache: nothing else differs then.

        Args:
            tokens: The requests' new ones.
        """
        self.tokens.to_numpy()[:] = tokens
        for length in self._lengths:
            length += 1

    @cached_property
    def _lengths(self) -> list[npt.NDArray[np.integer]]:
        """All that grows with the requests, once each: devices may share it."""
        at = _LENGTH_IN_METADATA
        lengths = [
            array
            for cache in tree.leaves(self.kv_cache_inputs, leaf=KVCacheInputsPerDevice)
            for array in (
                cache.cache_lengths.to_numpy(),
                cache.max_cache_length.to_numpy(),
                cache.attention_dispatch_metadata.to_numpy()[at : at + 1],
            )
        ]
        return list({array.ctypes.data: array for array in lengths}.values())
