"""Texts that can't fit are refused by their first tokens."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mllama.errors import PromptTooLongError, RequestError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.prompt_tokens import tokenize
from mllama.requests.stop_strings import StopStringFilter
from tests.max_model.test_prompt_encoding import TEMPLATE, demo_tokenizer
from tests.reference.prompts import prompt_encoder

MAX_LENGTH = 4096


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    encoder = prompt_encoder(demo_tokenizer(), TEMPLATE)
    return SimpleNamespace(prompt_encoder=encoder)


def chat(*texts: str) -> ChatPrompt:
    return ChatPrompt(messages=[{"role": "user", "content": text} for text in texts])


def tokens_of(tokenizer: Any, prompt: Any, **options: Any) -> Any:
    return asyncio.run(tokenize(prompt, tokenizer, MAX_LENGTH, **options))


@pytest.mark.parametrize("text", ["shape ", "a", "1", " ", "\n", "é", "🦙"])
@pytest.mark.parametrize("form", [chat, str])
def test_long_texts_are_refused_by_their_beginning(
    tokenizer: Any, text: str, form: Any
) -> None:
    started = time.process_time()
    with pytest.raises(PromptTooLongError, match="more than 8192 tokens"):
        tokens_of(tokenizer, form(text * 4_000_000))
    # The whole text would take seconds.
    assert time.process_time() - started < 0.5


def test_many_texts_are_refused_by_their_sum(tokenizer: Any) -> None:
    with pytest.raises(PromptTooLongError):
        tokens_of(tokenizer, chat(*["shape " * 1000] * 20))


def test_the_names_of_arguments_are_texts_too(tokenizer: Any) -> None:
    parameters = {"type": "object", "properties": {"shape " * 700_000: {}}}
    function = {"name": "find", "parameters": parameters}
    prompt = ChatPrompt(
        messages=[{"role": "user", "content": "a"}],
        tools=[{"type": "function", "function": function}],
    )
    started = time.process_time()
    with pytest.raises(PromptTooLongError, match="more than 8192 tokens"):
        tokens_of(tokenizer, prompt)
    assert time.process_time() - started < 0.5


def test_a_text_that_fits_is_tokenized_however_long(tokenizer: Any) -> None:
    encoder = SimpleNamespace(
        has_more_tokens=lambda texts, most: sum(map(len, texts)) > 100 * most,
        encode_prompt=lambda text: [1] * (len(text) // 100),
    )
    given = SimpleNamespace(prompt_encoder=encoder)
    assert len(tokens_of(given, "x" * 400_000)) == 4000


def test_tokens_alone_are_counted_beyond_the_context(tokenizer: Any) -> None:
    prompt = "shape " * 10_000
    assert len(tokens_of(tokenizer, prompt, fitting=len(prompt))) > 8192


def test_a_panic_of_the_tokenizer_is_an_error() -> None:
    class PanicException(BaseException):
        pass

    def encode_prompt(text: str) -> list[int]:
        raise PanicException("Onig: Regex search error")

    encoder = SimpleNamespace(encode_prompt=encode_prompt)
    given = SimpleNamespace(prompt_encoder=encoder)
    for size in (1, 10_000):
        with pytest.raises(RequestError, match="can't read the prompt: Onig"):
            tokens_of(given, "x" * size)


def test_thousands_of_messages_take_no_time(tokenizer: Any) -> None:
    started = time.process_time()
    assert len(tokens_of(tokenizer, chat(*["a"] * 4000))) > 4000
    # Searching each text in the whole prompt took 16 times as long for 4 times as many.
    assert time.process_time() - started < 4


@pytest.mark.parametrize("stop", ["a" * 1000, "a" * 999 + "b"])
def test_stop_strings_take_no_time(stop: str) -> None:
    stops = StopStringFilter([stop] * 64)
    started = time.process_time()
    for _ in range(900):
        assert stops.push("a") == ""
    assert time.process_time() - started < 1
    assert stops.finish() == "a" * 900
