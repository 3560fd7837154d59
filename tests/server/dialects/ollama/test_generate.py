"""Answers to prompts, with a template and raw."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import ONE, TWO, Api, answer_of, error_of, lines_of


def test_an_answer_is_a_response(api: Api) -> None:
    answer = answer_of(api.generate())
    assert answer["response"] == "Hello!"
    assert "message" not in answer
    assert "context" not in answer
    assert api.prompt.messages == [{"role": "user", "content": "Hi"}]
    *pieces, end = lines_of(api.generate(stream=True))
    assert "".join(piece["response"] for piece in pieces) == "Hello!"
    assert end["response"] == ""


def test_images_and_a_system_prompt_make_a_conversation(api: Api) -> None:
    answer_of(api.generate(system="Be brief.", images=[ONE, TWO]))
    system, user = api.prompt.messages
    assert system == {"role": "system", "content": "Be brief."}
    image = {"type": "image"}
    assert user["content"] == [image, image, {"type": "text", "text": "Hi"}]
    assert api.last.images == [b"one", b"two"]


def test_a_raw_prompt_goes_to_the_model_as_it_is(api: Api) -> None:
    answer_of(api.generate(raw=True, prompt="<|begin_of_text|>A red"))
    assert api.last.prompt == "<|begin_of_text|>A red"
    answer_of(api.generate(raw=True, images=[ONE]))
    assert (api.last.prompt, api.last.images) == ("<|image|>Hi", [b"one"])
    answer_of(api.generate(raw=True, prompt="a[img]b", images=[ONE, TWO]))
    assert api.last.prompt == "<|image|>a<|image|>b"
    assert api.last.images == [b"two", b"one"]
    assert "`raw`" in error_of(api.generate(raw=True, system="Be brief."))


def test_without_a_prompt_the_model_is_loaded_or_not(api: Api) -> None:
    for prompt in ("", None):
        for options, reason in (({}, "load"), ({"keep_alive": 0}, "unload")):
            answer = api.generate(prompt=prompt, **options).json()
            assert (answer["response"], answer["done_reason"]) == ("", reason)
    assert not api.engine.requests


@pytest.mark.parametrize(
    ("name", "value", "harmless"),
    [
        ("suffix", "the end", ""),
        ("template", "{{ .Prompt }}", ""),
        ("context", [1, 2], []),
        ("width", 512, None),
        ("height", 512, None),
        ("steps", 4, None),
        ("think", True, False),
        ("think", "high", None),
        ("_debug_render_only", True, False),
    ],
)
def test_what_does_not_apply_is_refused_by_name(
    api: Api, name: str, value: Any, harmless: Any
) -> None:
    assert f"`{name}` is not supported" in error_of(api.generate(**{name: value}))
    answer_of(api.generate(**{name: harmless}))


def test_unknown_keys_are_refused(api: Api) -> None:
    assert "`messages`" in error_of(api.generate(messages=[]))
    assert "`tools`" in error_of(api.generate(tools=[]))
    assert "`color`" in error_of(api.chat(color=1))


def test_log_probabilities_come_with_a_response(api: Api) -> None:
    entries = answer_of(api.generate(logprobs=True, top_logprobs=1))["logprobs"]
    assert [entry["token"] for entry in entries] == list("Hello!")
