"""Attention maps of a chat's answer, an extension of OpenAI's API."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import openai
import pytest

from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import AttentionMaps, AttentionOptions, ImageMaps
from mllama.requests.attention_words import AttentionToken, AttentionWord
from mllama.requests.events import AnswerAttention
from mllama.server.dialects.openai.answers import ChatCompletion, ChatCompletionChunk

from .conftest import Api, chunks_of, error_of

GRID = PatchGrid(
    tile_rows=1,
    tile_columns=1,
    patches=4,
    rows=3,
    columns=4,
    width=100,
    height=60,
    covered_width=100.0,
    covered_height=75.0,
)
RANDOM = np.random.default_rng(0)
IMAGE = ImageMaps(
    GRID,
    RANDOM.random((2, 3, 4), np.float32) / 12,
    np.array([0.25, 0.5], np.float32),
    np.array([0.0, 0.125], np.float32),
)
ATTENTION = AnswerAttention(
    0,
    [
        AttentionToken(72, "Hi", False, False),
        AttentionToken(257, "<|end|>", False, True),
    ],
    [AttentionWord("Hi", 0, 1, is_prompt=False, at=1)],
    AttentionMaps(5, [IMAGE], [(3, 2)]),
)


@pytest.fixture
def attending(api: Api) -> Api:
    """A server that was started with --attention."""
    api.capabilities = replace(api.capabilities, attention=True)
    api.engine.attention = [ATTENTION]
    return api


def decoded(image: Any) -> np.ndarray:
    """The maps, as docs/attention.md says."""
    steps = np.frombuffer(base64.b64decode(image["maps"]), "<u2")
    scale = np.frombuffer(base64.b64decode(image["scale"]), "<f4")
    return steps.reshape(image["shape"]) * (scale / 65535)[:, None, None]


def check(attention: Any) -> None:
    assert attention["heads"] == [[3, 2]]
    assert attention["tokens"] == [
        {"id": 72, "text": "Hi", "prompt": False},
        {"id": 257, "text": "<|end|>", "prompt": False},
    ]
    (word,) = attention["words"]
    assert word == {"text": "Hi", "prompt": False, "tokens": [0, 1], "map_of_token": 1}
    (image,) = attention["images"]
    np.testing.assert_allclose(decoded(image), IMAGE.maps, atol=1e-6)
    for name, values in (
        ("class_tokens", IMAGE.class_mass),
        ("padding", IMAGE.padding_mass),
    ):
        found = np.frombuffer(base64.b64decode(image[name]), "<f4")
        np.testing.assert_array_equal(found, values)
    assert (image["width"], image["height"]) == (100, 60)
    assert image["rectangle"] == [0, 0, 100, 75]


def test_a_whole_answer_has_the_maps(attending: Api) -> None:
    answer = attending.chat(attention={"layers": "last", "heads": "all"}).json()
    ChatCompletion.model_validate(answer, strict=True)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "Hello!"
    check(choice["attention"])
    (request,) = attending.engine.requests
    assert request.attention == AttentionOptions(layers="last", heads="all")


def test_the_model_says_that_it_has_maps(attending: Api) -> None:
    (model,) = attending.request("GET", "/v1/models").json()["data"]
    assert model["attention"] is True


def test_a_stream_has_the_maps_after_the_answer_and_before_the_usage(
    attending: Api,
) -> None:
    chunks = chunks_of(
        attending.chat(
            stream=True, attention={}, stream_options={"include_usage": True}
        )
    )
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    *_, end, maps, usage = chunks
    assert end["choices"][0]["finish_reason"] == "stop"
    (choice,) = maps["choices"]
    assert (choice["delta"], choice["finish_reason"]) == ({}, None)
    check(choice["attention"])
    assert usage["choices"] == []
    assert not any("attention" in str(chunk["choices"]) for chunk in chunks[:-2])


def test_each_choice_has_its_own(attending: Api) -> None:
    attending.engine.attention = [ATTENTION, replace(ATTENTION, choice=1, words=[])]
    choices = attending.chat(n=2, attention={}).json()["choices"]
    assert [len(each["attention"]["words"]) for each in choices] == [1, 0]


def test_an_answer_outlives_its_maps(attending: Api) -> None:
    attending.engine.attention = [AnswerAttention(0, error="the worker has died")]
    answer = attending.chat(attention={}).json()
    ChatCompletion.model_validate(answer, strict=True)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "Hello!"
    assert choice["attention"] == {"error": {"message": "the worker has died"}}


def test_maps_without_any_attention_are_zero(attending: Api) -> None:
    nothing = replace(IMAGE, maps=np.zeros((2, 3, 4), np.float32))
    maps = AttentionMaps(5, [nothing], [(3, 2)])
    attending.engine.attention = [replace(ATTENTION, maps=maps)]
    (choice,) = attending.chat(attention={}).json()["choices"]
    assert not decoded(choice["attention"]["images"][0]).any()


def test_a_plain_answer_has_none(attending: Api) -> None:
    for attention in ({}, {"attention": None}):
        (choice,) = attending.chat(**attention).json()["choices"]
        assert "attention" not in choice


def test_a_server_without_attention_refuses_it(api: Api) -> None:
    for stream in (False, True):
        error = error_of(api.chat(attention={}, stream=stream))
        assert error["param"] == "attention"
        assert error["code"] == "unsupported_parameter"
        assert "--attention" in error["message"]
    assert not api.engine.requests


@pytest.mark.parametrize(
    ("value", "param", "message"),
    [
        (True, "attention", "object"),
        ({"layer": 3}, "attention.layer", "layer"),
        ({"layers": "first"}, "attention", "'first'"),
        ({"layers": 3}, "attention.layers", "a list of layers"),
        ({"layers": []}, "attention.layers", "must not be empty"),
        ({"layers": [-1]}, "attention.layers[0]", "0"),
        ({"heads": 3}, "attention.heads", "a list of heads"),
        ({"heads": [[3]]}, "attention.heads[0]", "at least 2"),
        ({"heads": [[3, 2, 1]]}, "attention.heads[0]", "at most 2"),
        ({"heads": [[3, "2"]]}, "attention.heads[0][1]", "integer"),
        ({"heads": [0] * 1025}, "attention.heads", "1024"),
        ({"heads": [[3, 2]], "layers": [3]}, "attention", "can't be combined"),
        ({"prompt": 1}, "attention.prompt", "true or false"),
    ],
)
def test_wrong_values_are_refused(
    attending: Api, value: Any, param: str, message: str
) -> None:
    error = error_of(attending.chat(attention=value))
    assert error["param"] == param
    assert message in error["message"]


def test_the_openai_client_reads_it(attending: Api) -> None:
    answer = openai.types.chat.ChatCompletion.model_validate(
        attending.chat(attention={}).json()
    )
    check(json.loads(answer.choices[0].model_dump_json())["attention"])
