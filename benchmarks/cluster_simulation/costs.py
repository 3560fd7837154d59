"""What a replica's work takes, as it was measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Costs:
    """Times of one replica's work, in seconds.

    Attributes:
        encode: Encoding a picture.
        prefill_token: Reading a token of a prompt.
        steps: A decode step by the number of its requests; others are interpolated.
        max_batch: Requests that decode together.
        source: Where the figures come from.
    """

    encode: float
    prefill_token: float
    steps: Mapping[int, float]
    max_batch: int
    source: str

    def step(self, requests: int) -> float:
        """Returns the time of a decode step of so many requests."""
        known = sorted(self.steps)
        for low, high in itertools.pairwise(known):
            if low <= requests <= high:
                share = (requests - low) / (high - low)
                return self.steps[low] + share * (self.steps[high] - self.steps[low])
        return self.steps[known[-1]] * requests / known[-1]

    def service(self, prompt_tokens: float, new_tokens: float) -> float:
        """Returns a replica's time for a request of a full batch.

        Its pictures are in the cache.
        """
        share = self.step(self.max_batch) / self.max_batch
        return prompt_tokens * self.prefill_token + new_tokens * share


_BATCH_4: Final = 4 * 45.7 / 125.4
_BATCH_8: Final = 8 * 45.7 / 162.7
"""A decode step of 4 and 8 requests over one of a single request: workload f, a table
of docs/performance.md ("What came out")."""

COSTS: Final[Mapping[str, Costs]] = {
    "11b": Costs(
        encode=48 - 0.7,
        prefill_token=0.7 / 24,
        steps={1: 1 / 6.6, 4: _BATCH_4 / 6.6, 8: _BATCH_8 / 6.6},
        max_batch=8,
        source="11B's full shape in q4_k on 2 cores of Zen 5 (2026-11-26): first token "
        "of a picture of four tiles 48 s, of the same picture again 0.7 s, 6.6 tokens "
        "a second",
    ),
    "11b-int8": Costs(
        encode=44 - 1.5,
        prefill_token=1.5 / 24,
        steps={1: 1 / 7, 4: _BATCH_4 / 7, 8: _BATCH_8 / 7},
        max_batch=8,
        source="11B's full shape in q4_k with the vision side in int8 on 2 cores of "
        "Zen 4 (2026-11-27): 44 s, 1.5 s, 7 tokens a second",
    ),
    "demo": Costs(
        encode=0.040,
        prefill_token=4.5 * 0.00146 / 815,
        steps={1: 0.00146, 4: _BATCH_4 * 0.00146, 8: _BATCH_8 * 0.00146},
        max_batch=8,
        source="the demo model on 2 cores (2026-11-27, 2026-11-29): a token 1.46 ms, "
        "the longest step next to new pictures 41 ms at best, a text of 815 tokens 4 "
        "to 5 steps",
    ),
}
"""Figures of docs/performance.md; where it has none for a batch, the ratios of f."""
