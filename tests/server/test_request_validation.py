"""What a client asks for it gets, or it is told by name that it can't."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mllama.server.request_validation import (
    CHAT,
    COMPLETIONS,
    RequestRejected,
    ServerCapabilities,
    adapted,
    check,
)

PLAIN = ServerCapabilities(model_name="served", vocabulary=100)
USER = [{"role": "user", "content": "hi"}]


def content(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def image(**fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:,x", **fields}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -0.5}, "presence_penalty"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"prompt_tokens": [1, 100]}, "prompt_tokens"),
        ({"prompt_tokens": []}, "prompt_tokens"),
        (content({"type": "video_url", "video_url": {}}), "messages[0].content"),
        (content({"type": "input_audio"}), "messages[0].content"),
        (content("text"), "messages[0].content"),
        (content({"type": "image_url", "image_url": "u"}), "messages[0].content"),
        (content({"type": "image_url"}), "messages[0].content"),
        (content(image(max_long_side_pixel=5)), "messages[0].content"),
        (content(image(url="file:///etc/passwd")), "messages[0].content"),
    ],
)
def test_a_chat_that_would_be_ignored_or_break_is_refused(
    body: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestRejected) as caught:
        check(CHAT, {"model": "served", "messages": USER, **body}, PLAIN)
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 1, "logit_bias": {}, "logit_bias ": None, "min_tokens": 0},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1},
        {"tools": [], "tool_choice": "auto", "reasoning_effort": "none"},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": 0, "max_tokens": 5},
        {"logprobs": True, "top_logprobs": 3, "stop": ["."], "user": "u"},
        {"prompt_tokens": [0, 99]},
        content({"type": "text", "text": "hi"}, image(detail="high")),
        {"messages": "not a list"},
    ],
)
def test_a_chat_that_is_served_passes(body: dict[str, Any]) -> None:
    check(CHAT, {"model": "served", "messages": USER, **body}, PLAIN)


def test_what_the_server_was_started_with_is_allowed() -> None:
    able = ServerCapabilities(
        model_name="served",
        vocabulary=100,
        penalties=True,
        min_tokens=True,
        tool_parser=True,
        reasoning_parser=True,
        local_images=True,
    )
    check(
        CHAT,
        {
            **content(image(url="file:///pictures/a.png")),
            "frequency_penalty": 1,
            "min_tokens": 3,
            "tool_choice": "required",
            "thinking_temperature": 0.5,
        },
        able,
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"echo": True}, "echo"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [5, 100]}, "prompt"),
        ({"prompt": [[5], [-1]]}, "prompt"),
        ({"prompt": ["a", "b"], "stream": True}, "prompt"),
    ],
)
def test_a_completion_that_would_be_ignored_or_break_is_refused(
    body: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestRejected) as caught:
        check(COMPLETIONS, {"model": "served", "prompt": "hi", **body}, PLAIN)
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", ["hi", ["hi"], ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_a_completion_that_is_served_passes(prompt: Any) -> None:
    check(COMPLETIONS, {"model": "served", "prompt": prompt, "echo": False}, PLAIN)


@pytest.mark.parametrize(
    "name", ["served", "", "meta-llama/Llama-3.2-11B-Vision-Instruct"]
)
def test_the_published_names_mean_the_model_that_is_served(name: str) -> None:
    assert adapted({"model": name}, PLAIN)["model"] == "served"


def test_another_model_does_not_exist() -> None:
    with pytest.raises(
        RequestRejected, match=r"'gpt-4o' does not exist.*'served'"
    ) as caught:
        adapted({"model": "gpt-4o"}, PLAIN)
    assert caught.value.status == 404


def test_an_adapter_keeps_its_name() -> None:
    features = ServerCapabilities(
        model_name="served", vocabulary=9, other_names=("cats",)
    )
    assert adapted({"model": "cats"}, features)["model"] == "cats"


def test_a_seed_of_zero_is_a_seed() -> None:
    """MAX draws a random one for it."""
    first, second = (adapted({"model": "", "seed": 0}, PLAIN) for _ in range(2))
    assert first == second
    assert first["seed"] not in (0, None)


@pytest.mark.parametrize("top_k", [100, 10**9])
def test_more_candidates_than_tokens_are_all_tokens(top_k: int) -> None:
    """MAX reserves memory for as many as it is told."""
    assert adapted({"model": "", "top_k": top_k}, PLAIN)["top_k"] == -1


@pytest.mark.parametrize(
    ("body", "top_k"),
    [
        ({}, None),
        ({"temperature": 0.7}, -1),
        ({"top_p": 0.9}, -1),
        ({"seed": 3}, -1),
        ({"temperature": 0.7, "top_k": 5}, 5),
    ],
)
def test_a_greedy_server_samples_for_a_client_that_asks(
    body: dict[str, Any], top_k: int | None
) -> None:
    greedy = ServerCapabilities(model_name="served", vocabulary=100, greedy=True)
    assert adapted({"model": "", **body}, greedy).get("top_k") == top_k
    assert "top_k" not in adapted({"model": "", "temperature": 0.7}, PLAIN)


@pytest.mark.parametrize("own", [{"max_tokens": 9}, {"max_completion_tokens": 9}])
def test_the_servers_limit_is_for_requests_without_one(own: dict[str, int]) -> None:
    limited = replace(PLAIN, max_new_tokens=5)
    assert adapted({"max_tokens": None}, limited)["max_tokens"] == 5
    assert own.items() <= adapted(own, limited).items()
    assert "max_tokens" not in adapted({}, PLAIN)
