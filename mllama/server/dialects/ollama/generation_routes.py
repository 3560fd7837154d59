"""``POST /api/chat`` and ``POST /api/generate``."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.server.answering import AnswerWriters, answer
from mllama.server.arrival.reading import read_body_with_images
from mllama.server.arrival.strings import BodyStrings
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.ollama.answer import (
    NDJSON,
    AnswerForm,
    Clock,
    answer_lines,
    empty_answer,
    whole_answer,
)
from mllama.server.dialects.ollama.bodies import (
    OllamaChatBody,
    OllamaFields,
    OllamaGenerateBody,
    is_zero,
)
from mllama.server.dialects.ollama.errors import OLLAMA_ERRORS
from mllama.server.dialects.ollama.model_names import check_ollama_model
from mllama.server.dialects.ollama.prompt_translation import (
    chat_images,
    chat_prompt_of,
    generate_images,
    generate_prompt_of,
)
from mllama.server.dialects.ollama.sampling_translation import (
    model_options,
    ollama_output_format,
    sampling_of,
)
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.image_route import ImageRoute, ReferencedImages
from mllama.server.request_images import (
    ImageReference,
    check_image_count,
)
from mllama.server.request_origin import RequestOrigin, origin_of
from mllama.server.usage import UsageCounter

if TYPE_CHECKING:
    from mllama.images.preprocess import ImageTiles

logger = logging.getLogger("mllama")

AnyBody = TypeVar("AnyBody", bound=OllamaFields)


@dataclass(frozen=True)
class _Question:
    """What a valid body asks.

    Attributes:
        prompt: The prompt.
        images: Its images, in order.
    """

    prompt: ChatPrompt | str
    images: Sequence[ImageReference]


class GenerationRoutes(ImageRoute):
    """Answers conversations and prompts.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.

    Raises:
        MllamaError: If the model's own options, in Ollama's store, can't be honored.
    """

    def __init__(
        self,
        engine: EngineClient,
        capabilities: ServerCapabilities,
        fetcher: ImageFetcher,
    ) -> None:
        super().__init__(engine, capabilities, fetcher)
        description = capabilities.description
        self._defaults = model_options(description.sampling_defaults)
        self._system = "" if description.stored is None else description.stored.system
        self._has_noted_context = False

    async def chat(self, request: Request) -> Response:
        """Answers a request to ``/api/chat``."""

        def question(body: OllamaChatBody) -> _Question | None:
            if not body.messages:
                return None
            prompt = chat_prompt_of(
                body,
                system=self._system,
                continues_messages=self._capabilities.continues_messages,
            )
            return _Question(prompt, chat_images(body))

        return await self._answer(
            request, OllamaChatBody, "chat", chat_images, question
        )

    async def generate(self, request: Request) -> Response:
        """Answers a request to ``/api/generate``."""

        def question(body: OllamaGenerateBody) -> _Question | None:
            if not body.prompt:
                return None
            prompt = generate_prompt_of(body, system=self._system)
            return _Question(prompt, generate_images(body))

        return await self._answer(
            request, OllamaGenerateBody, "generate", generate_images, question
        )

    async def _answer(
        self,
        request: Request,
        model: type[AnyBody],
        kind: Literal["chat", "generate"],
        images: Callable[[AnyBody], list[ImageReference]],
        question: Callable[[AnyBody], _Question | None],
    ) -> Response:
        origin = origin_of(request)
        body, strings = await read_body_with_images(
            request, model, lambda body: [each.source for each in images(body)]
        )
        check_ollama_model(body.model, self._capabilities.model_name)
        clock, usage = Clock(origin.arrived_ns), UsageCounter()
        form = AnswerForm(kind, body.model, self._engine.token_bytes, clock)
        asked = question(body)
        if asked is None:
            reason: Literal["load", "unload"] = (
                "unload" if is_zero(body.keep_alive) else "load"
            )
            return JSONResponse(empty_answer(form, reason))
        check_image_count(len(asked.images), self._capabilities.max_images)
        self._note_context(body)
        return await answer(
            request,
            self._start(body, asked, strings, origin, clock),
            AnswerWriters(
                partial(whole_answer, form=form, usage=usage),
                partial(answer_lines, form=form, usage=usage),
                OLLAMA_ERRORS,
                media_type=NDJSON,
            ),
            as_stream=body.is_streamed,
        )

    async def _start(
        self,
        body: OllamaFields,
        asked: _Question,
        strings: BodyStrings,
        origin: RequestOrigin,
        clock: Clock,
    ) -> AsyncGenerator[Event, None]:
        """Hands a request to the engine."""
        sampling = sampling_of(body, self._defaults, self._capabilities)
        output_format = ollama_output_format(body)

        async def load() -> Sequence[ImageTiles]:
            images = await self._load_images(asked.images, strings)
            clock.loaded()
            return images

        request = GenerationRequest(
            prompt=asked.prompt,
            images=ReferencedImages(asked.images, load),
            sampling=sampling,
            output_format=output_format,
        )
        return self._engine.generate(request, origin=origin)

    def _note_context(self, body: OllamaFields) -> None:
        """Logs once that a context is longer than the server's."""
        asked = body.options.num_ctx if body.options is not None else None
        longest = self._capabilities.max_length
        if self._has_noted_context or asked is None or longest is None:
            return
        if asked > longest:
            self._has_noted_context = True
            logger.warning(
                "a request asks for a context of %d tokens (num_ctx), and gets the %d "
                "that are served; --max-length sets them",
                asked,
                longest,
            )
