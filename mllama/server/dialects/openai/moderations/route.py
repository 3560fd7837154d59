"""``POST /v1/moderations``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.server.answering import whole_response
from mllama.server.arrival.reading import read_body_with_images
from mllama.server.arrival.strings import BodyStrings
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.completion_route import MAX_RUNNING_PROMPTS
from mllama.server.dialects.openai.merged_events import merged
from mllama.server.dialects.openai.moderations.answer import (
    ModerationForm,
    whole_moderation,
)
from mllama.server.dialects.openai.moderations.body import ModerationBody
from mllama.server.dialects.openai.moderations.translation import (
    check_moderation,
    contents,
    image_references,
    input_types,
    prompt_of,
    verdict_sampling,
)
from mllama.server.dialects.openai.moderations.verdict import (
    VerdictReader,
    verdict_format,
)
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.image_route import ImageRoute
from mllama.server.request_origin import RequestOrigin, origin_of
from mllama.server.usage import UsageCounter


class ModerationRoute(ImageRoute):
    """Judges texts and pictures, if the served model is a Llama Guard.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """

    def __init__(
        self,
        engine: EngineClient,
        capabilities: ServerCapabilities,
        fetcher: ImageFetcher,
    ) -> None:
        super().__init__(engine, capabilities, fetcher)
        self._reader = VerdictReader(
            capabilities.hazards,
            engine.token_bytes,
            capabilities.special_tokens.__contains__,
        )

    async def __call__(self, request: Request) -> Response:
        """Answers a request."""
        origin = origin_of(request)
        body, strings = await read_body_with_images(
            request,
            ModerationBody,
            lambda body: [each.source for each in image_references(body)],
        )
        check_moderation(body, self._capabilities)
        form = ModerationForm(
            self._capabilities.model_name,
            self._reader,
            [input_types(content) for content in contents(body)],
        )
        usage = UsageCounter()
        return await whole_response(
            request,
            self._start(body, strings, origin),
            partial(whole_moderation, form=form, usage=usage),
        )

    async def _start(
        self,
        body: ModerationBody,
        strings: BodyStrings,
        origin: RequestOrigin,
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """Hands a request's inputs to the engine."""
        images = self._images(image_references(body), strings)
        requests = [
            GenerationRequest(
                prompt=prompt_of(content),
                images=images,
                sampling=verdict_sampling(self._capabilities),
                output_format=verdict_format(self._capabilities.hazards),
            )
            for content in contents(body)
        ]
        starts = [
            partial(self._engine.generate, each, origin=origin.of_part(number))
            for number, each in enumerate(requests)
        ]
        return merged(starts, MAX_RUNNING_PROMPTS)
