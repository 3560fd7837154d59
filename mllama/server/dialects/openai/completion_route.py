"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from mllama.requests.events import Accepted, Event
from mllama.requests.request import GenerationRequest
from mllama.server.answering import AnswerWriters, answer
from mllama.server.arrival.reading import read_body
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.answer_head import AnswerHead
from mllama.server.dialects.openai.completion_answer import (
    CompletionForm,
    completion_chunks,
    whole_completion,
)
from mllama.server.dialects.openai.completion_body import CompletionBody
from mllama.server.dialects.openai.completion_translation import (
    check_completion,
    check_log_probabilities,
    completion_sampling,
    echoed_texts,
    prompts_of,
)
from mllama.server.dialects.openai.errors import OPENAI_ERRORS
from mllama.server.dialects.openai.format_translation import openai_output_format
from mllama.server.dialects.openai.merged_events import merged
from mllama.server.engine_client import EngineClient
from mllama.server.request_origin import RequestOrigin, origin_of
from mllama.server.usage import UsageCounter

MAX_RUNNING_PROMPTS: Final = 32
"""How many prompts of one request the engine gets at a time."""


class CompletionRoute:
    """Continues texts.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
    """

    def __init__(self, engine: EngineClient, capabilities: ServerCapabilities) -> None:
        self._engine = engine
        self._capabilities = capabilities

    async def __call__(self, request: Request) -> Response:
        """Answers a request."""
        origin = origin_of(request)
        body = await read_body(request, CompletionBody)
        check_completion(body, self._capabilities)
        form, usage = self._form(body), UsageCounter()
        running = min(len(form.prompts), MAX_RUNNING_PROMPTS)

        def are_accepted(events: list[tuple[int, Event]]) -> bool:
            accepted = sum(isinstance(event, Accepted) for _, event in events)
            # Some may wait until others have been answered.
            return accepted >= running or accepted < len(events)

        return await answer(
            request,
            self._start(body, form, origin),
            AnswerWriters(
                partial(whole_completion, form=form, usage=usage),
                partial(completion_chunks, form=form, usage=usage),
                OPENAI_ERRORS,
                is_ready=are_accepted,
            ),
            as_stream=bool(body.stream),
        )

    async def _start(
        self,
        body: CompletionBody,
        form: CompletionForm,
        origin: RequestOrigin,
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """Hands a request's prompts to the engine."""
        sampling = completion_sampling(body, self._capabilities)
        check_log_probabilities(body, sampling, self._capabilities)
        output_format = openai_output_format(body)
        requests = [
            GenerationRequest(
                prompt=prompt,
                sampling=sampling,
                choices=form.answers,
                output_format=output_format,
            )
            for prompt in prompts_of(body)
        ]
        starts = [
            partial(self._engine.generate, each, origin=origin.of_part(number))
            for number, each in enumerate(requests)
        ]
        return merged(starts, MAX_RUNNING_PROMPTS)

    def _form(self, body: CompletionBody) -> CompletionForm:
        choices = body.n or 1
        return CompletionForm(
            head=AnswerHead("cmpl", self._capabilities.model_name),
            token_bytes=self._engine.token_bytes,
            is_special=self._capabilities.special_tokens.__contains__,
            prompts=echoed_texts(body, self._engine.token_bytes),
            echo=bool(body.echo),
            answers=max(choices, body.best_of or 1),
            choices=choices,
            logprobs=body.logprobs,
            prompt_logprobs=body.prompt_logprobs,
            include_usage=body.includes_usage,
            continuous_usage=body.has_continuous_usage,
        )
