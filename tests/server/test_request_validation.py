"""A request is served as the client means it, or rejected with the field's name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mllama.server.request_validation import (
    CHAT,
    COMPLETIONS,
    RequestRejected,
    ServerCapabilities,
    normalize,
    validate,
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
def test_a_chat_with_an_unsupported_or_invalid_field_is_rejected(
    body: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestRejected) as caught:
        validate(CHAT, {"model": "served", "messages": USER, **body}, PLAIN)
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
def test_a_supported_chat_is_accepted(body: dict[str, Any]) -> None:
    request = {"model": "served", "messages": USER, **body}
    validate(CHAT, request, PLAIN)
    assert normalize(request, PLAIN)["messages"] == request["messages"]


def test_options_of_the_server_allow_more_fields() -> None:
    full = ServerCapabilities(
        model_name="served",
        vocabulary=100,
        penalties=True,
        min_tokens=True,
        tool_parser=True,
        reasoning_parser=True,
        local_images=True,
    )
    request = {
        **content(image(url="file:///pictures/a.png")),
        "frequency_penalty": 1,
        "min_tokens": 3,
        "tool_choice": "required",
        "thinking_temperature": 0.5,
    }
    with pytest.raises(RequestRejected):
        validate(CHAT, request, PLAIN)
    validate(CHAT, request, full)


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
def test_a_completion_with_an_unsupported_or_invalid_field_is_rejected(
    body: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestRejected) as caught:
        validate(COMPLETIONS, {"model": "served", "prompt": "hi", **body}, PLAIN)
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", ["hi", ["hi"], ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_a_supported_completion_is_accepted(prompt: Any) -> None:
    request = {"model": "served", "prompt": prompt, "echo": False}
    validate(COMPLETIONS, request, PLAIN)
    assert normalize(request, PLAIN)["prompt"] == prompt


@pytest.mark.parametrize(
    "name", ["served", "", "meta-llama/Llama-3.2-11B-Vision-Instruct"]
)
def test_published_names_select_the_served_model(name: str) -> None:
    assert normalize({"model": name}, PLAIN)["model"] == "served"


def test_an_unknown_model_is_rejected_with_404() -> None:
    with pytest.raises(
        RequestRejected, match=r"'gpt-4o' does not exist.*'served'"
    ) as caught:
        normalize({"model": "gpt-4o"}, PLAIN)
    assert caught.value.status == 404


def test_seed_zero_gives_a_fixed_seed() -> None:
    """MAX would draw a random seed instead."""
    first, second = (normalize({"model": "", "seed": 0}, PLAIN) for _ in range(2))
    assert first == second
    assert first["seed"] not in (0, None)


@pytest.mark.parametrize("top_k", [100, 10**9])
def test_top_k_beyond_the_vocabulary_means_all_tokens(top_k: int) -> None:
    """MAX would reserve memory for that many candidates."""
    assert normalize({"model": "", "top_k": top_k}, PLAIN)["top_k"] == -1


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
def test_a_greedy_server_samples_if_a_request_sets_a_sampling_field(
    body: dict[str, Any], top_k: int | None
) -> None:
    greedy = ServerCapabilities(model_name="served", vocabulary=100, greedy=True)
    assert normalize({"model": "", **body}, greedy).get("top_k") == top_k
    assert "top_k" not in normalize({"model": "", "temperature": 0.7}, PLAIN)


@pytest.mark.parametrize("own", [{"max_tokens": 9}, {"max_completion_tokens": 9}])
def test_the_servers_length_limit_applies_to_requests_without_their_own(
    own: dict[str, int],
) -> None:
    limited = replace(PLAIN, max_new_tokens=5)
    assert normalize({"max_tokens": None}, limited)["max_tokens"] == 5
    assert own.items() <= normalize(own, limited).items()
    assert "max_tokens" not in normalize({}, PLAIN)
