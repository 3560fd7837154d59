"""Completions, whole and as streams."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.answers import Completion, CompletionChunk
from tests.server.dialects.fake_engine import BEGIN, VOCABULARY, FakeEngine

from .conftest import Api, chunks_of, error_of


def texts(answer: Any) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def test_an_answer_has_the_schemas_form(api: Api) -> None:
    answer = api.complete().json()
    Completion.model_validate(answer, strict=True)
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "text": "Hello!",
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert answer["usage"]["total_tokens"] == 3 + 7


@pytest.mark.parametrize(
    ("server", "options", "limit"),
    [
        (None, {}, 16),
        (None, {"max_tokens": None}, 16),
        (40, {}, 40),
        (40, {"max_tokens": 3}, 3),
        (None, {"max_tokens": 0}, 0),
        (None, {"min_tokens": 20}, 20),
    ],
)
def test_sixteen_tokens_where_nothing_says_otherwise(
    server: int | None, options: Any, limit: int
) -> None:
    capabilities = ServerCapabilities(
        model_name="served", vocabulary=VOCABULARY, max_new_tokens=server
    )
    api = Api(capabilities=capabilities)
    assert api.complete(**options).status_code == 200
    assert api.engine.requests[0].sampling.max_new_tokens == limit


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        ("Hi", ["Hi"]),
        (["Hi", "Ho"], ["Hi", "Ho"]),
        ([72, 105], [[72, 105]]),
        ([[72], [105, 1]], [[72], [105, 1]]),
        (["Hi"] * 100, ["Hi"] * 100),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_every_form_are_answered(
    api: Api, prompt: Any, given: list[Any], stream: bool
) -> None:
    response = api.complete(prompt=prompt, stream=stream, max_tokens=3, n=2)
    assert [request.prompt for request in api.engine.requests] == given
    count = 2 * len(given)
    if not stream:
        answer = response.json()
        assert texts(answer) == ["Hel"] * count
        assert [each["index"] for each in answer["choices"]] == list(range(count))
        return
    gathered = [""] * count
    reasons: list[Any] = [None] * count
    for chunk in chunks_of(response):
        CompletionChunk.model_validate(chunk, strict=True)
        (choice,) = chunk["choices"]
        gathered[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"]
    assert gathered == ["Hel"] * count
    assert reasons == ["length"] * count


@pytest.mark.parametrize(
    ("prompt", "path"),
    [
        ("", "prompt"),
        ([], "prompt"),
        (["a", ""], "prompt[1]"),
        ([[1], []], "prompt[1]"),
        ([1, VOCABULARY], "prompt[1]"),
        ([[1], [2, VOCABULARY]], "prompt[1][1]"),
        ([1, "a"], "prompt[1]"),
        ([-1], "prompt[0]"),
        ([1.0], "prompt[0]"),
        ([True], "prompt[0]"),
        (["a"] * 2049, "prompt"),
        ({"text": "a"}, "prompt"),
        (None, "prompt"),
    ],
)
def test_a_wrong_prompt_is_named(api: Api, prompt: Any, path: str) -> None:
    assert error_of(api.complete(prompt=prompt))["param"] == path
    assert not api.engine.requests


def test_log_probabilities_have_all_four_lists() -> None:
    api = Api(FakeEngine("ü!"))
    answer = api.complete(logprobs=2).json()
    Completion.model_validate(answer, strict=True)
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3", "bytes:\\xbc", "!"]
    assert logprobs["token_logprobs"] == [-0.25] * 3
    # The offset of a character is that of its first byte's token.
    assert logprobs["text_offset"] == [0, 0, 1]
    assert list(logprobs["top_logprobs"][2].items()) == [('"', -0.125), ("!", -0.25)]


def test_no_likeliest_tokens_leave_the_token_itself() -> None:
    logprobs = (
        Api(FakeEngine("a")).complete(logprobs=0).json()["choices"][0]["logprobs"]
    )
    assert logprobs["top_logprobs"] == [{"a": -0.25}]
    assert logprobs["token_logprobs"] == [-0.25]


@pytest.mark.parametrize("prompt", ["Hi", [BEGIN, 72, 105]])
def test_echo_returns_the_prompt_and_its_log_probabilities(prompt: Any) -> None:
    api = Api(FakeEngine("yo"))
    answer = api.complete(prompt=prompt, echo=True, logprobs=1).json()
    Completion.model_validate(answer, strict=True)
    (choice,) = answer["choices"]
    begin = "" if isinstance(prompt, str) else "<|begin|>"
    assert choice["text"] == f"{begin}Hiyo"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["<|begin|>", "H", "i", "y", "o"]
    assert logprobs["token_logprobs"] == [None, -0.25, -0.25, -0.25, -0.25]
    assert logprobs["top_logprobs"][0] is None
    offset = len(begin)
    assert logprobs["text_offset"] == [0, *range(offset, offset + 4)]
    pairs = zip(logprobs["tokens"], logprobs["text_offset"], strict=True)
    assert all(choice["text"][place] == token for token, place in list(pairs)[1:])


def test_echo_without_new_tokens_reads_the_prompt_only() -> None:
    api = Api(FakeEngine("yo"))
    answer = api.complete(echo=True, logprobs=1, max_tokens=0).json()
    (choice,) = answer["choices"]
    assert choice["text"] == "Hi"
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == 3
    assert answer["usage"]["completion_tokens"] == 0


def test_a_stream_has_the_log_probabilities_of_the_whole_answer() -> None:
    api = Api(FakeEngine("yü!", "no"))
    options: Any = {"echo": True, "logprobs": 3, "n": 2}
    whole = api.complete(**options).json()
    found: list[Any] = [{}, {}]
    text = ["", ""]
    for chunk in chunks_of(api.complete(stream=True, **options)):
        (choice,) = chunk["choices"]
        text[choice["index"]] += choice["text"]
        for name, values in (choice["logprobs"] or {}).items():
            found[choice["index"]].setdefault(name, []).extend(values)
    assert text == texts(whole)
    assert found == [choice["logprobs"] for choice in whole["choices"]]


def test_the_best_answers_are_returned_likeliest_first() -> None:
    api = Api(FakeEngine("one", "two", "six"))
    answer = api.complete(n=2, best_of=3).json()
    # The fake engine's later choices are likelier.
    assert texts(answer) == ["six", "two"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 3 * 4
    assert texts(api.complete(n=2, best_of=2).json()) == ["one", "two"]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 0}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"messages": []}, "messages"),
        ({"images": ["x"]}, "images"),
    ],
)
def test_what_is_not_possible_is_refused_by_name(
    api: Api, options: Any, path: str
) -> None:
    assert error_of(api.complete(**options))["param"] == path


def test_a_streams_usage_is_that_of_all_prompts(api: Api) -> None:
    options: Any = {"prompt": ["Hi", "Hello"], "n": 2}
    whole = api.complete(**options).json()["usage"]
    *_, last = chunks_of(
        api.complete(stream=True, stream_options={"include_usage": True}, **options)
    )
    assert last["choices"] == []
    assert last["usage"] == whole
    assert whole["prompt_tokens"] == 3 + 6


def test_the_error_of_one_prompt_ends_the_others(api: Api) -> None:
    api.engine.error_after = (2, ValueError("unforeseen"))
    response = api.complete(prompt=["a"] * 5, stream=True)
    assert "unforeseen" not in response.text
    assert '"type": "server_error"' in response.text
    assert api.engine.running == 0
