"""The text graph's inputs of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from max import tree
from max.driver import Buffer
from max.pipelines.context import TextAndVisionContext
from max.pipelines.lib import ModelInputs

from mllama.image_cache.encoder_runner import PendingImage
from mllama.max_compat.model import KVCacheInputsPerDevice
from mllama.max_model.log_probabilities import PromptLogits
from mllama.max_model.sampling_context import guess_count
from mllama.nn.layers.image_cache_inputs import ImageReadInputs

_LENGTH_IN_METADATA = 3
"""Index of the longest request's length in MAX's attention metadata."""


@dataclass(kw_only=True)
class MllamaInputs(ModelInputs):
    """The inputs of one step, and the images to encode before it.

    Attributes:
        tokens: int64 ``[tokens]``, the new tokens of all requests.
        input_row_offsets: uint32 ``[requests + 1]``, where requests begin in them.
        logit_indices: int64 ``[logits]``, the tokens whose logits are wanted: the last
            of each request with its guesses, then those of ``prompt_logits``.
        reads: Segments of the image cache that the tokens attend to, for each device.
        pending: Images that the image cache lacks.
        batch: The requests.
        prompt_logits: The tokens whose logits give a prompt's log probabilities.
        constants: The inputs that are the same in every step.
    """

    tokens: Buffer
    input_row_offsets: Buffer
    logit_indices: Buffer
    reads: list[ImageReadInputs[Buffer, Buffer]]
    pending: list[PendingImage]
    batch: Sequence[TextAndVisionContext]
    prompt_logits: list[PromptLogits]
    constants: Sequence[Buffer]

    @cached_property
    def buffers(self) -> list[Buffer]:
        """Returns the text graph's inputs in order."""
        return [
            self.tokens,
            self.input_row_offsets,
            self.logit_indices,
            *tree.leaves(self.reads),
            *tree.leaves(self.kv_cache_inputs),
            *self.constants,
        ]

    @property
    def answer_logits(self) -> int:
        """Returns the number of logits that aren't those of ``prompt_logits``."""
        return sum(1 + guess_count(context) for context in self.batch)

    def advance(self, tokens: Sequence[int]) -> None:
        """Turns the inputs into those of the same requests' next step, in place.

        This works on a CPU only, where each request adds one token, as it did in this
        step, and needs no further page of the KV cache: nothing else differs then.

        Args:
            tokens: The new token of each request.
        """
        self.tokens.to_numpy()[:] = tokens
        for length in self._lengths:
            length += 1

    @cached_property
    def _lengths(self) -> list[npt.NDArray[np.integer]]:
        """Returns the arrays that grow with the requests, once each: devices may share
        them."""
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
