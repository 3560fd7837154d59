"""``POST /v1/responses``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.requests.tool_use import calls_have_grammar
from mllama.server.answering import AnswerWriters, answer
from mllama.server.arrival.reading import read_body_with_images
from mllama.server.arrival.strings import BodyStrings
from mllama.server.dialects.openai.responses.answer import (
    StreamedErrors,
    response_events,
    whole_response,
)
from mllama.server.dialects.openai.responses.body import ResponsesBody
from mllama.server.dialects.openai.responses.conversation import image_references
from mllama.server.dialects.openai.responses.response_form import ResponseForm
from mllama.server.dialects.openai.responses.text_fields import text_format
from mllama.server.dialects.openai.responses.translation import (
    check_response,
    response_prompt,
    response_sampling,
)
from mllama.server.dialects.openai.responses.writer import ResponseWriter
from mllama.server.image_route import ImageRoute
from mllama.server.request_origin import RequestOrigin, origin_of
from mllama.server.usage import UsageCounter


class ResponsesRoute(ImageRoute):
    """Answers conversations of items."""

    async def __call__(self, request: Request) -> Response:
        """Answers a request."""
        origin = origin_of(request)
        body, strings = await read_body_with_images(
            request,
            ResponsesBody,
            lambda body: [each.source for each in image_references(body)],
        )
        check_response(body, self._capabilities)
        prompt = response_prompt(body, self._capabilities)
        usage = UsageCounter()
        form = ResponseForm(
            body=body,
            model=self._capabilities.model_name,
            token_bytes=self._engine.token_bytes,
        )
        writer = ResponseWriter(form, usage)
        return await answer(
            request,
            self._start(body, prompt, strings, origin),
            AnswerWriters(
                partial(whole_response, writer=writer),
                partial(
                    response_events,
                    writer=writer,
                    are_calls_certain=calls_have_grammar(prompt),
                ),
                StreamedErrors(writer),
            ),
            as_stream=bool(body.stream),
        )

    async def _start(
        self,
        body: ResponsesBody,
        prompt: ChatPrompt,
        strings: BodyStrings,
        origin: RequestOrigin,
    ) -> AsyncGenerator[Event, None]:
        """Hands a request to the engine."""
        sampling = response_sampling(body, self._capabilities)
        output_format = text_format(body.text)
        request = GenerationRequest(
            prompt=prompt,
            images=self._images(image_references(body), strings),
            sampling=sampling,
            output_format=output_format,
        )
        return self._engine.generate(request, origin=origin)
