"""An engine whose tokens are bytes, and whose answers are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from mllama.errors import ImageError
from mllama.requests.answers import events_of
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import (
    Accepted,
    AnswerAttention,
    Event,
    Finished,
    PromptRead,
    TokenLogprob,
)
from mllama.requests.request import GenerationRequest, load_images
from mllama.requests.stop_strings import StopStringFilter
from mllama.requests.tool_use import ToolUse, tool_use_of
from mllama.server.engine_client import Turns
from mllama.server.request_origin import RequestOrigin

BEGIN, END = 256, 257
SPECIAL = {BEGIN: b"<|begin|>", END: b"<|end|>"}
VOCABULARY = 258


class FakeTiles(bytes):
    """An image that is ready for the model."""

    @property
    def memory_bytes(self) -> int:
        return len(self)


class FakeEngine:
    """Answers with given texts, a byte at a time.

    Attributes:
        texts: The answers, by the number of the choice.
        requests: The requests that it got.
        images: The contents of the images that it prepared.
        running: Number of requests that have neither ended nor been closed.
        error: Raised in place of the first event.
        error_after: Raised after so many pieces.
        wait: Awaited before each piece.
        likeliest: Log probabilities of the likeliest tokens by id, by the place in an
            answer, instead of made ones.
        attention: What follows the answers to a request for attention maps.
    """

    def __init__(self, *texts: str | bytes) -> None:
        self.texts: Sequence[str | bytes] = texts or ("Hello!",)
        self.requests: list[GenerationRequest] = []
        self.images: list[bytes] = []
        self.running = 0
        self.error: Exception | None = None
        self.error_after: tuple[int, Exception] | None = None
        self.wait: Callable[[], Any] | None = None
        self.cached_tokens = 0
        self.likeliest: Mapping[int, Mapping[int, float]] = {}
        self.attention: Sequence[AnswerAttention] = ()

    async def generate(
        self,
        request: GenerationRequest,
        *,
        origin: RequestOrigin | None = None,
        turns: Turns | None = None,
    ) -> AsyncGenerator[Event, None]:
        request = replace(request, images=await load_images(request.images))
        self.requests.append(request)
        self.running += 1
        try:
            if self.error is not None:
                raise self.error
            if turns is not None:
                await turns.next()
            yield Accepted()
            for event in self._events(request):
                if self.wait is not None:
                    await self.wait()
                else:
                    await asyncio.sleep(0)
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.running -= 1

    def _events(self, request: GenerationRequest) -> list[Event | Exception]:
        sampling = request.sampling
        prompt = self._prompt_tokens(request.prompt)
        events: list[Event | Exception] = [
            PromptRead(
                prompt,
                image_tokens=5 * len(request.images),
                cached_tokens=self.cached_tokens,
                logprobs=None
                if sampling.prompt_logprobs is None
                else [
                    None if index == 0 else logprob(token, sampling.prompt_logprobs)
                    for index, token in enumerate(prompt)
                ],
            )
        ]
        answers = []
        for choice in range(request.choices):
            text = self.texts[choice % len(self.texts)]
            tokens = list(text if isinstance(text, bytes) else text.encode())
            is_cut = -1 < sampling.max_new_tokens <= len(tokens)
            if is_cut:
                tokens = tokens[: sampling.max_new_tokens]
            answers.append(self._answer(choice, tokens, is_cut, request))
        # Pieces of several choices come interleaved.
        longest = max(map(len, answers))
        events += [
            answer[index]
            for index in range(longest)
            for answer in answers
            if index < len(answer)
        ]
        if request.attention is not None:
            events += self.attention
        if self.error_after is not None:
            count, error = self.error_after
            events[count:] = [error]
        return events

    def _answer(
        self, choice: int, tokens: list[int], is_cut: bool, request: GenerationRequest
    ) -> list[Event]:
        events: list[Event] = []
        calls = (tool_use_of(request.prompt) or ToolUse(names=())).parser(choice)
        logprobs = request.sampling.logprobs
        stop = StopStringFilter(request.sampling.stop_strings)
        held = b""
        for place, token in enumerate(tokens):
            held += bytes([token])
            try:
                text, held = stop.push(held.decode()), b""
            except UnicodeDecodeError:
                text = ""
            entries = (
                ()
                if logprobs is None
                # Later choices are likelier.
                else (
                    TokenLogprob(token, given[token], given)
                    if (given := self.likeliest.get(place))
                    else logprob(token, logprobs, shift=choice),
                )
            )
            events += events_of(calls.push(text), choice, [token], entries)
            if calls.is_finished or stop.found:
                break
        parts = calls.push(stop.finish() + held.decode(errors="replace"))
        is_cut = is_cut and not stop.found
        if parts := parts + calls.finish(is_cut=is_cut):
            events += events_of(parts, choice, [], ())
        reason = calls.finish_reason("length" if is_cut else "stop")
        count = len(tokens) + (not is_cut)
        events.append(Finished(choice, reason, stop.found, completion_tokens=count))
        return events

    def _prompt_tokens(self, prompt: Any) -> list[int]:
        if isinstance(prompt, ChatPrompt):
            text = "".join(str(message["content"]) for message in prompt.messages)
            return [BEGIN, *text.encode()]
        if isinstance(prompt, str):
            return [BEGIN, *prompt.encode()]
        return list(prompt)

    def prepare_image(self, image: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if image == b"broken":
            future.set_exception(ImageError("the image is broken"))
        else:
            self.images.append(image)
            future.set_result(FakeTiles(image))
        return future

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int]:
        return self._prompt_tokens(prompt)

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[Any]
    ) -> int:
        return len(self._prompt_tokens(prompt)) + 5 * len(images)

    def token_bytes(self, token_id: int) -> bytes:
        return SPECIAL.get(token_id) or bytes([token_id])


def logprob(token: int, top: int, shift: int = 0) -> TokenLogprob:
    """Log probabilities in which the token is the second likeliest."""
    others = [(token + each) % VOCABULARY for each in range(1, 21)]
    order = [others[0], token, *others[1:]][:top]
    values = {each: -(index + 1) / 8 for index, each in enumerate(order)}
    return TokenLogprob(token, -0.25 + shift / 16, values)
