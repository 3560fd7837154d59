"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.server.answering import AnswerWriters, answer
from mllama.server.arrival.reading import read_body_with_images
from mllama.server.arrival.strings import BodyStrings
from mllama.server.dialects.openai.answer_head import AnswerHead
from mllama.server.dialects.openai.attention_fields import attention_options
from mllama.server.dialects.openai.chat_answer import ChatForm, chat_chunks, whole_chat
from mllama.server.dialects.openai.chat_body import ChatBody
from mllama.server.dialects.openai.chat_translation import (
    chat_prompt,
    chat_sampling,
    check_chat,
    echoed_text,
    image_references,
)
from mllama.server.dialects.openai.errors import OPENAI_ERRORS
from mllama.server.dialects.openai.format_translation import openai_output_format
from mllama.server.image_route import ImageRoute
from mllama.server.request_origin import RequestOrigin, origin_of
from mllama.server.usage import UsageCounter


class ChatRoute(ImageRoute):
    """Continues conversations."""

    async def __call__(self, request: Request) -> Response:
        """Answers a request."""
        origin = origin_of(request)
        body, strings = await read_body_with_images(
            request,
            ChatBody,
            lambda body: [each.source for each in image_references(body.messages)],
        )
        check_chat(body, self._capabilities)
        form, usage = self._form(body), UsageCounter()
        return await answer(
            request,
            self._start(body, strings, origin),
            AnswerWriters(
                partial(whole_chat, form=form, usage=usage),
                partial(chat_chunks, form=form, usage=usage),
                OPENAI_ERRORS,
            ),
            as_stream=bool(body.stream),
        )

    async def _start(
        self,
        body: ChatBody,
        strings: BodyStrings,
        origin: RequestOrigin,
    ) -> AsyncGenerator[Event, None]:
        """Hands a request to the engine."""
        prompt = chat_prompt(body, self._capabilities)
        sampling = chat_sampling(body, self._capabilities)
        output_format = openai_output_format(body)
        request = GenerationRequest(
            prompt=prompt,
            images=self._images(image_references(body.messages), strings),
            sampling=sampling,
            choices=body.n or 1,
            output_format=output_format,
            attention=attention_options(body.attention, self._capabilities),
        )
        return self._engine.generate(request, origin=origin)

    def _form(self, body: ChatBody) -> ChatForm:
        return ChatForm(
            head=AnswerHead("chatcmpl", self._capabilities.model_name),
            token_bytes=self._engine.token_bytes,
            choices=body.n or 1,
            echo=echoed_text(body),
            logprobs=bool(body.logprobs),
            include_usage=body.includes_usage,
            continuous_usage=body.has_continuous_usage,
        )
