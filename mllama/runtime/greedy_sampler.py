"""Greedy sampling on the host, for batches in which no request samples.

MAX's sampler is a graph with seven inputs that are made anew for each step, whatever
the requests ask for.  On a CPU that takes longer than finding the largest logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device

from mllama.max_compat.model import BatchProcessorInputs, FusedSamplingProcessor


class GreedySamplingProcessor(FusedSamplingProcessor):
    """A sampling processor that picks tokens on the host if a CPU batch is greedy."""

    def __init__(
        self,
        sampler: Any,
        pipeline_config: Any,
        context_batch: list[Any],
        device: Device,
        bitmask: npt.NDArray[np.int32] | None = None,
        identity_logit_offsets: Buffer | None = None,
        **options: Any,
    ) -> None:
        self.is_greedy = (
            device.is_host
            and bitmask is None
            and is_greedy(context_batch, pipeline_config.sampling)
        )
        if self.is_greedy:
            self.batch_size = len(context_batch)
            self._identity_logit_offsets = identity_logit_offsets
        else:
            super().__init__(
                sampler,
                pipeline_config,
                context_batch,
                device,
                bitmask=bitmask,
                identity_logit_offsets=identity_logit_offsets,
                **options,
            )

    def __call__(self, inputs: BatchProcessorInputs) -> None:
        """Chooses a token for each request."""
        if not self.is_greedy:
            super().__call__(inputs)
            return
        tokens = argmax_tokens(inputs.logits, inputs.logit_offsets)
        self.new_tokens = Buffer.from_numpy(tokens)
        self.generated_tokens = Buffer.from_numpy(tokens[:, None])


def is_greedy(contexts: Sequence[Any], sampling: Any) -> bool:
    """Returns True if every request is greedy, without penalties or ``min_tokens``.

    Args:
        contexts: The requests.
        sampling: MAX's settings for all of them.
    """
    return (
        not sampling.enable_penalties
        and not sampling.enable_min_tokens
        and all(
            context.sampling_params.top_k == 1
            and not context.sampling_params.needs_penalties
            and not context.min_tokens
            for context in contexts
        )
    )


def argmax_tokens(
    logits: Buffer, offsets: Buffer | None = None
) -> npt.NDArray[np.int64]:
    """Returns the token with the largest logit of each request, the lowest id on a tie.

    Args:
        logits: ``[tokens, vocabulary]`` on the host.
        offsets: ``[requests + 1]``, the first token of each request and the end of the
            last, if a request may have several tokens; its last one counts.

    Returns:
        ``[requests]``.
    """
    values = logits.to_numpy()
    if offsets is not None:
        values = values[offsets.to_numpy()[1:].astype(np.int64) - 1]
    return values.argmax(axis=-1)
