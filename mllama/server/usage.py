"""MAX's pipeline with image tokens in the usage and exact stop strings.

MAX counts an image as one token, its placeholder in the prompt.  The model computes,
stores and attends to the image tokens of its valid tiles (1601 per tile in the
published models).  Therefore, here and in the Python API, ``prompt_tokens`` is the
number of text tokens, placeholders included, plus the number of image tokens, which
``prompt_tokens_details.image_tokens`` reports separately.

MAX streams the text of a stop string before it detects it; here such text is held back.
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


class _ImageTokenRecorder:
    """A proxy of the model worker that records the image tokens of each request."""

    def __init__(self, worker: Any, image_tokens: MutableMapping[str, int]) -> None:
        self._worker = worker
        self._image_tokens = image_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def stream(self, request_id: Any, context: Any) -> Any:
        """Records the image tokens of a request and passes it to the worker."""
        self._image_tokens[str(request_id)] = image_tokens_of(context)
        return await self._worker.stream(request_id, context)


class UsagePipeline(TokenGeneratorPipeline):
    """MAX's pipeline with image tokens in the usage and exact stop strings.

    Args:
        pipeline: The pipeline to replace.
        image_tokens: Receives the image tokens of each request by its id.  The caller
            removes the entries.
    """

    def __init__(
        self, pipeline: TokenGeneratorPipeline, image_tokens: MutableMapping[str, int]
    ) -> None:
        arguments = arguments_of(pipeline)
        arguments["model_worker"] = _ImageTokenRecorder(
            pipeline.model_worker, image_tokens
        )
        super().__init__(**arguments)
        self._image_tokens = image_tokens

    async def next_token_chunk(
        self, request: Any, *, parse_reasoning: bool = True
    ) -> AsyncGenerator[TokenGeneratorOutput, None]:
        """Submits a request and returns its output, as MAX's pipeline does."""
        chunks = await super().next_token_chunk(
            request, parse_reasoning=parse_reasoning
        )
        return self._with_image_tokens(
            chunks,
            self._image_tokens.get(str(request.request_id), 0),
            StopStringFilter(request.sampling_params.stop or ()),
        )

    async def _with_image_tokens(
        self,
        chunks: AsyncGenerator[TokenGeneratorOutput, None],
        image_tokens: int,
        stop_filter: StopStringFilter,
    ) -> AsyncGenerator[TokenGeneratorOutput, None]:
        # Closing the chunks with this generator cancels an abandoned request.
        async with aclosing(chunks):
            async for chunk in chunks:
                if has_failed(chunk.status):
                    raise RuntimeError("the model failed on this request")
                is_done = chunk.status.is_done
                text = chunk.decoded_tokens
                if text is not None:
                    text = stop_filter.push(text)
                if is_done:
                    text = (text or "") + stop_filter.finish()
                tokens = chunk.prompt_token_count
                yield replace(
                    chunk,
                    decoded_tokens=text,
                    prompt_token_count=None
                    if tokens is None
                    else tokens + image_tokens,
                )
                if is_done:
                    # MAX may still have tokens that come after a stop string.
                    return
