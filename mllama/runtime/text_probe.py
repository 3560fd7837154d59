"""Runs of the text graph on a made-up prompt, before any request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from max.pipelines.context import TextContext, TokenBuffer

from mllama.image_cache.block_manager import Entry
from mllama.image_cache.storage import ReadSegment
from mllama.max_model.log_probabilities import logit_indices
from mllama.max_model.model_inputs import MllamaInputs

PROMPT_TOKENS = 24


class TextProbe:
    """Prefills one prompt, with or without an image, and returns its logits.

    Args:
        model: The ``MllamaModel``.
        kv_manager: MAX's KV cache of the pipeline, unchanged yet.
        max_batch_size: The largest number of prompts in a step.
    """

    def __init__(self, model: Any, kv_manager: Any, max_batch_size: int) -> None:
        self._model = model
        self._kv_manager = kv_manager
        # Admission replaces it later, and knows requests alone.
        self._alloc = kv_manager.alloc
        self._max_batch_size = max_batch_size
        config = model.arch_config.model
        count = min(PROMPT_TOKENS, model.arch_config.max_seq_len - 1)
        # Special tokens have the highest numbers.  Logits of a disorderly prompt are
        # as sensitive to rounding as its continuation is uncertain.
        vocabulary = min(config.text_config.vocab_size, config.image_token_index)
        self.tokens = np.arange(1, count + 1, dtype=np.int64) % vocabulary

    def run(self, images: Sequence[Entry | None]) -> npt.NDArray[np.float32]:
        """Prefills the prompt once for each image, in as few steps as possible.

        Args:
            images: The images that the prompts' tokens attend to; None is no image.

        Returns:
            float32 ``[prompts, vocabulary]``: the logits of the last tokens.
        """
        size = self._max_batch_size
        return np.concatenate(
            [self._step(images[i : i + size]) for i in range(0, len(images), size)]
        )

    def _step(self, images: Sequence[Entry | None]) -> npt.NDArray[np.float32]:
        contexts = [
            TextContext(
                max_length=len(self.tokens) + 1, tokens=TokenBuffer(self.tokens.copy())
            )
            for _ in images
        ]
        claimed = []
        try:
            for context in contexts:
                self._kv_manager.claim(context)
                claimed.append(context)
                self._alloc(context)
            return self._logits(contexts, images)
        finally:
            for context in claimed:
                self._kv_manager.release(context)

    def _logits(
        self, contexts: list[Any], images: Sequence[Entry | None]
    ) -> npt.NDArray[np.float32]:
        storage, length = self._model.image_cache.storage, len(self.tokens)
        device = storage.devices[0]
        offsets = np.arange(len(images) + 1, dtype=np.uint32) * np.uint32(length)
        inputs = MllamaInputs(
            tokens=storage.uploads.copy(np.tile(self.tokens, len(images)), device),
            input_row_offsets=storage.uploads.copy(offsets, device),
            logit_indices=storage.uploads.copy(logit_indices(offsets, []), device),
            reads=storage.read_inputs(
                [
                    ReadSegment(length, image, image.num_tokens(1) if image else 0)
                    for image in images
                ]
            ),
            pending=[],
            batch=contexts,
            prompt_logits=[],
            constants=self._model.text_constants,
            kv_cache_inputs=self._kv_manager.runtime_inputs([contexts]),
        )
        outputs = self._model.execute(model_inputs=inputs)
        logits = np.array(outputs.next_token_logits.to_numpy(), dtype=np.float32)
        storage.uploads.release()
        return logits
