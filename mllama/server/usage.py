"""MAX's pipeline with image tokens in a request's usage, and exact stop strings.

MAX counts an image as the one placeholder token that it is in the prompt.  What an
image costs is the vision tokens that its valid tiles hold (1601 a tile for the
published weights): they are computed, stored and attended to.  So
``prompt_tokens`` = tokens of the text, placeholders included, + vision tokens, here
and in the Python API; ``prompt_tokens_details.image_tokens`` is the vision tokens.

MAX streams the text of a stop string before it notices it; here it is held back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, MutableMapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from mllama.image_cache.context import image_tokens_of
from mllama.max_compat.server import (
    TokenGeneratorOutput,
    TokenGeneratorPipeline,
    arguments_of,
)
from mllama.requests.stop_strings import StopStringFilter
from mllama.runtime.fault_isolation import has_failed


class _ContextCounter:
    """A model worker's proxy that notes the image tokens of what passes through."""

    def __init__(self, worker: Any, counts: MutableMapping[str, int]) -> None:
        self._worker = worker
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def stream(self, request_id: Any, context: Any) -> Any:
        """Hands a request to the worker."""
        self._counts[str(request_id)] = image_tokens_of(context)
        return await self._worker.stream(request_id, context)


class CountingPipeline(TokenGeneratorPipeline):
    """MAX's pipeline, with what this module adds.

    Args:
        pipeline: The pipeline to stand in for.
        counts: Where image tokens are noted, by request id.  Entries are the
            caller's to remove.
    """

    def __init__(
        self, pipeline: TokenGeneratorPipeline, counts: MutableMapping[str, int]
    ) -> None:
        arguments = arguments_of(pipeline)
        arguments["model_worker"] = _ContextCounter(pipeline.model_worker, counts)
        super().__init__(**arguments)
        self._counts = counts

    async def next_token_chunk(
        self, request: Any, *, parse_reasoning: bool = True
    ) -> AsyncGenerator[TokenGeneratorOutput, None]:
        """Submits a request; see MAX."""
        chunks = await super().next_token_chunk(
            request, parse_reasoning=parse_reasoning
        )
        return self._amend(
            chunks,
            self._counts.get(str(request.request_id), 0),
            StopStringFilter(request.sampling_params.stop or ()),
        )

    async def _amend(
        self,
        chunks: AsyncGenerator[TokenGeneratorOutput, None],
        images: int,
        guard: StopStringFilter,
    ) -> AsyncGenerator[TokenGeneratorOutput, None]:
        # Closed with this generator: that is what cancels an abandoned request.
        async with aclosing(chunks):
            async for chunk in chunks:
                if has_failed(chunk.status):
                    raise RuntimeError("the model failed on this request")
                done = chunk.status.is_done
                text = chunk.decoded_tokens
                if text is not None:
                    text = guard.push(text)
                if done:
                    text = (text or "") + guard.finish()
                tokens = chunk.prompt_token_count
                yield replace(
                    chunk,
                    decoded_tokens=text,
                    prompt_token_count=None if tokens is None else tokens + images,
                )
                if done:
                    # MAX may have tokens left that came after a stop string.
                    return
