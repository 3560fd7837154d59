"""What an engine does for the requests of a server, beside those of its caller.

This module loads nothing of MAX.
"""

from __future__ import annotations

from dataclasses import dataclass

from mllama.errors import MllamaError
from mllama.requests.sampling_params import Sampling


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """What requests get that leave it open, and what they may ask for.

    Attributes:
        max_new_tokens: Maximum length of an answer to a request that sets no limit, in
            tokens; -1 allows answers up to the maximum length of a sequence.
        top_k: The number of likeliest tokens from which a request samples that sets
            none; -1 is all.
        attention: Whether the graph of attention maps is loaded at the start, so that
            no request waits for it.

    Raises:
        MllamaError: If a value is out of range.
    """

    max_new_tokens: int = -1
    top_k: int = 1
    attention: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < -1 or self.max_new_tokens == 0:
            raise MllamaError(
                f"--max-new-tokens must be -1 or at least 1, not {self.max_new_tokens}"
            )
        Sampling(top_k=self.top_k)
