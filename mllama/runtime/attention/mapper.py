"""Attention maps of a running pipeline: checked, loaded and computed on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from mllama.errors import RequestError
from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import AttentionMaps, AttentionOptions
from mllama.runtime.attention.maps import MapRunner
from mllama.runtime.attention.queries import cache_bytes
from mllama.utils.sizes import format_bytes

MAX_CACHE_BYTES: Final = 4 << 30
"""The KV cache of a sequence whose maps are computed, beside that of requests: 16,000
tokens of 11B in float32."""


class AttentionMapper:
    """Computes attention maps between the steps of a pipeline.

    The graph is loaded when it is first needed, so that others cost nothing.

    Args:
        model: The ``MllamaModel``.
        wait_for_step: Waits for a step that runs ahead of the scheduler.
    """

    def __init__(self, model: Any, wait_for_step: Callable[[], None]) -> None:
        self._model = model
        self._wait_for_step = wait_for_step
        self._runner: MapRunner | None = None
        text = model.arch_config.model.text_config
        self._cross_layers: Sequence[int] = text.cross_attention_layers
        self._num_heads: int = text.num_attention_heads

    def check(self, options: AttentionOptions, tokens: int) -> None:
        """Checks that the maps that a request asks for can be computed.

        Args:
            options: The layers and heads.
            tokens: The length of the prompt, or of prompt and answer.

        Raises:
            RequestError: If the model runs on a GPU, or has no such layer or head, or
                the KV cache of so many tokens would be too large.
        """
        self.check_device()
        options.chosen(self._cross_layers, self._num_heads)
        needed = cache_bytes(self._model.kv_params, tokens)
        if needed > MAX_CACHE_BYTES:
            raise RequestError(
                f"attention maps of {tokens} tokens take {format_bytes(needed)} of "
                "memory for their keys and values, and may take "
                f"{format_bytes(MAX_CACHE_BYTES)}; shorten the prompt or the answer",
                "attention",
            )

    def check_device(self) -> None:
        """Checks that the model runs where maps can be computed.

        Raises:
            RequestError: If it runs on a GPU.
        """
        if not self._model.devices[0].is_host:
            raise RequestError(
                "attention maps are computed on a CPU only: use --devices cpu",
                "attention",
            )

    @property
    def is_loaded(self) -> bool:
        """Returns True if the graph is loaded."""
        return self._runner is not None

    def load(self) -> MapRunner:
        """Loads the graph unless it is loaded; it is compiled if no cache has it."""
        if self._runner is None:
            self._wait_for_step()
            self._runner = MapRunner(self._model)
        return self._runner

    def compute(
        self,
        context: Any,
        grids: Sequence[PatchGrid],
        first: int,
        answer: int,
        options: AttentionOptions,
    ) -> AttentionMaps:
        """Computes maps as :meth:`MapRunner.compute` does.

        The thread that steps the scheduler must call it.
        """
        self.check(options, len(context.tokens.all))
        runner = self.load()
        self._wait_for_step()
        return runner.compute(context, grids, first, answer, options)
