"""What an answer's log probabilities may take is bounded."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from mllama.server.dialects import log_probability_budget
from mllama.server.dialects.log_probability_budget import (
    MAX_LOG_PROBABILITIES,
    LogProbabilityBudget,
)
from mllama.server.token_text import prompt_entries
from tests.server.dialects.fake_engine import FakeEngine, logprob

from .conftest import Api, error_of

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True}
OLLAMA = {"model": "served", "logprobs": True, "stream": False}
RESPONSE = {"input": "Hi", "include": ["message.output_text.logprobs"]}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probability_budget, "MAX_LOG_PROBABILITIES", 100)


@pytest.fixture
def long() -> Api:
    """A server whose answers have 50 tokens."""
    return Api(engine=FakeEngine("a" * 50))


@pytest.mark.parametrize(
    ("path", "fits", "exceeds"),
    [
        ("/v1/chat/completions", CHAT, {**CHAT, "top_logprobs": 2}),
        ("/v1/chat/completions", {**CHAT, "n": 2}, {**CHAT, "n": 3}),
        (
            "/v1/chat/completions",
            {**CHAT, "top_logprobs": 20, "max_tokens": 4},
            {**CHAT, "top_logprobs": 20, "max_tokens": 5},
        ),
        (
            "/v1/completions",
            {"prompt": ["a"] * 8, "logprobs": 3, "max_tokens": 3},
            {"prompt": ["a"] * 9, "logprobs": 3, "max_tokens": 3},
        ),
        (
            "/v1/completions",
            {"prompt": "a", "n": 1, "best_of": 2, "max_tokens": 50},
            {"prompt": "a", "n": 1, "best_of": 3, "max_tokens": 50},
        ),
        (
            "/v1/completions",
            {"prompt": ["a" * 12] * 2, "prompt_logprobs": 3, "max_tokens": 0},
            {"prompt": ["a" * 12] * 3, "prompt_logprobs": 3, "max_tokens": 0},
        ),
        (
            "/v1/completions",
            {"prompt": [[1] * 12] * 2, "prompt_logprobs": 3, "max_tokens": 0},
            {"prompt": [[1] * 12] * 3, "prompt_logprobs": 3, "max_tokens": 0},
        ),
        (
            "/v1/completions",
            {"prompt": "a" * 20, "echo": True, "logprobs": 1, "n": 2, "max_tokens": 0},
            {"prompt": "a" * 20, "echo": True, "logprobs": 1, "n": 3, "max_tokens": 0},
        ),
        (
            "/api/generate",
            {**OLLAMA, "prompt": "a"},
            {**OLLAMA, "prompt": "a", "top_logprobs": 2},
        ),
        ("/v1/responses", RESPONSE, {**RESPONSE, "top_logprobs": 2}),
    ],
)
def test_more_than_may_be_kept_is_refused(
    long: Api, few: None, path: str, fits: Any, exceeds: Any
) -> None:
    answer = long.post(path, fits)
    assert answer.status_code == 200, answer.text
    answer = long.post(path, exceeds)
    assert answer.status_code == 400
    assert "more than 100 log probabilities" in answer.text
    assert long.engine.running == 0


@pytest.mark.parametrize(
    "body",
    [
        {**CHAT, "top_logprobs": 20, "max_tokens": 5},
        {"prompt": [[1] * 9] * 2, "logprobs": 5, "max_tokens": 10},
    ],
)
def test_it_is_refused_before_any_work(long: Api, few: None, body: Any) -> None:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    error = error_of(long.post(path, body))
    assert error["param"] == "logprobs"
    assert not long.engine.requests


def test_streams_keep_nothing(long: Api, few: None) -> None:
    body = {**CHAT, "top_logprobs": 20, "n": 4, "stream": True}
    answer = long.post("/v1/chat/completions", body)
    assert answer.status_code == 200
    assert '"error"' not in answer.text
    assert answer.text.count('"finish_reason":"stop"') == 4


@pytest.mark.parametrize(
    ("tokens", "alternatives"), [(8000, 20), (8 * 2000, 20), (64 * 2000, 5)]
)
def test_what_evaluations_ask_for_fits(tokens: int, alternatives: int) -> None:
    LogProbabilityBudget().foresee(tokens, alternatives)


def test_many_of_them_take_a_few_hundred_megabytes() -> None:
    count = 500
    tracemalloc.start()
    try:
        tokens = [logprob(index % 200, 20) for index in range(count)]
        steps = prompt_entries(tokens, lambda token: b"token")
        entries: Any = None
        while entries is None:
            try:
                next(steps)
            except StopIteration as end:
                entries = end.value
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # What is being sent is there twice more.
    text = sum(map(len, entries))
    each = (held + 2 * text) / (21 * count)
    assert each * MAX_LOG_PROBABILITIES < 600e6
