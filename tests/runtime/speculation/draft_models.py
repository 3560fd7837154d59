"""A draft model without a network."""

from __future__ import annotations

import numpy as np

from mllama.max_model.draft.cache import DraftCacheManager
from mllama.max_model.draft.model import DraftRow

VOCABULARY = 100
PAGE = 10


class CountingModel:
    """A draft model that says the sum of all tokens so far and 1, modulo 100.

    It keeps what its rows stored in pages, as a KV cache does, and so finds rows that
    read what nobody wrote.
    """

    def __init__(
        self,
        pages: int = 20,
        max_length: int = 1000,
        vocabulary: int = VOCABULARY,
    ) -> None:
        self.cache = DraftCacheManager(pages, PAGE)
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.steps: list[list[int]] = []
        self._memory = np.full(pages * PAGE, -1)

    def next_tokens(self, rows: list[DraftRow]) -> np.ndarray:
        """Stores the rows' tokens and returns what follows each."""
        self.steps.append([len(row.tokens) for row in rows])
        said = []
        for row in rows:
            length = row.cached + len(row.tokens)
            places = [row.pages[i // PAGE] * PAGE + i % PAGE for i in range(length)]
            self._memory[places[row.cached :]] = row.tokens
            assert (self._memory[places] >= 0).all()
            said.append((int(self._memory[places].sum()) + 1) % VOCABULARY)
        return np.array(said)
