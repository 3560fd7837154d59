"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mllama.errors import NumberedImageError, RequestError
from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.server.answering import AnswerWriters, answer
from mllama.server.arrival.reading import read_body_with_images
from mllama.server.arrival.strings import BodyStrings
from mllama.server.dialects.anthropic.conversation import (
    Conversation,
    read_conversation,
)
from mllama.server.dialects.anthropic.errors import ANTHROPIC_ERRORS, error_about_body
from mllama.server.dialects.anthropic.message_answer import (
    MessageForm,
    message_events,
    whole_message,
)
from mllama.server.dialects.anthropic.message_body import (
    CountTokensBody,
    MessageBody,
    PromptBody,
)
from mllama.server.dialects.anthropic.tool_fields import CustomTool
from mllama.server.dialects.anthropic.translation import (
    anthropic_output_format,
    check_body,
    image_references,
    prompt_of,
    sampling_of,
)
from mllama.server.disconnect import unless_disconnected
from mllama.server.image_route import ImageRoute
from mllama.server.request_images import image_error_in_body
from mllama.server.request_origin import RequestOrigin, origin_of
from mllama.server.usage import UsageCounter

PromptModel = TypeVar("PromptModel", bound=PromptBody)


class MessageRoutes(ImageRoute):
    """Continues conversations, and counts their tokens."""

    async def create(self, request: Request) -> Response:
        """Answers a request for the next message."""
        origin = origin_of(request)
        body, strings, conversation = await self._read(request, MessageBody)
        usage = UsageCounter()
        form = MessageForm(
            model=self._capabilities.model_name,
            max_tokens=body.max_tokens,
            early_tools=_early_tools(body),
        )
        events = self._start(body, strings, conversation, origin)
        writers = AnswerWriters(
            partial(whole_message, form=form, usage=usage),
            partial(message_events, form=form, usage=usage),
            ANTHROPIC_ERRORS,
        )
        try:
            return await answer(request, events, writers, as_stream=bool(body.stream))
        except RequestError as error:
            raise error_about_body(error, conversation.places) from error

    async def count_tokens(self, request: Request) -> Response:
        """Returns the number of a prompt's tokens."""
        body, strings, conversation = await self._read(request, CountTokensBody)
        try:
            count = await unless_disconnected(
                request, self._count(body, strings, conversation)
            )
        except RequestError as error:
            raise error_about_body(error, conversation.places) from error
        return JSONResponse({"input_tokens": count})

    async def _read(
        self, request: Request, model: type[PromptModel]
    ) -> tuple[PromptModel, BodyStrings, Conversation]:
        body, strings = await read_body_with_images(
            request,
            model,
            lambda body: [each.source for each in image_references(body)],
        )
        check_body(body, self._capabilities)
        return body, strings, read_conversation(body)

    async def _start(
        self,
        body: MessageBody,
        strings: BodyStrings,
        conversation: Conversation,
        origin: RequestOrigin,
    ) -> AsyncGenerator[Event, None]:
        """Hands a request to the engine."""
        prompt = prompt_of(body, conversation, self._capabilities)
        sampling = sampling_of(body)
        output_format = anthropic_output_format(body)
        request = GenerationRequest(
            prompt=prompt,
            images=self._images(image_references(body), strings),
            sampling=sampling,
            output_format=output_format,
        )
        return self._engine.generate(request, origin=origin)

    async def _count(
        self, body: PromptBody, strings: BodyStrings, conversation: Conversation
    ) -> int:
        prompt = prompt_of(body, conversation, self._capabilities)
        references = image_references(body)
        images = await self._load_images(references, strings)
        try:
            return await self._engine.count_tokens(prompt, images)
        except NumberedImageError as error:
            raise image_error_in_body(error, references) from error


def _early_tools(body: MessageBody) -> frozenset[str] | None:
    """Returns the tools whose input is streamed as it is generated; None is all.

    Calls that a grammar forces can't turn out to be text, unless a stop string ends
    them.
    """
    tools = [tool for tool in body.tools or () if isinstance(tool, CustomTool)]
    is_forced = body.tool_choice is not None and body.tool_choice.type in (
        "any",
        "tool",
    )
    is_strict = any(tool.strict for tool in tools) and not body.stop_sequences
    if is_forced or is_strict:
        return None
    return frozenset(tool.name for tool in tools if tool.eager_input_streaming)
