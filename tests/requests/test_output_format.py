"""Formats are checked where they are made, by the path of their field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mllama.errors import RequestError
from mllama.requests.output_format import (
    MAX_CHOICE_TEXTS,
    MAX_FORMAT_BYTES,
    OutputFormat,
)
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling

DEEP: Any = {}
for _ in range(100_000):
    DEEP = {"items": DEEP}


def test_a_format_keeps_its_source() -> None:
    schema = {"type": "object", "properties": {"ä": {"type": "string"}}}
    made = OutputFormat.json_schema(schema, strict=True, path="a.b")
    assert (made.kind, json.loads(made.source)) == ("json_schema", schema)
    assert made.is_strict
    assert made.path == "a.b"
    assert OutputFormat.json_object().source == ""
    assert OutputFormat.regex("a+").source == "a+"
    assert OutputFormat.grammar('root ::= "a"').source == 'root ::= "a"'
    assert json.loads(OutputFormat.choice(["a", "b", "a"]).source) == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: OutputFormat.json_schema([1], path="f"), "f"),  # type: ignore[arg-type]
        (lambda: OutputFormat.json_schema({"a": {1, 2}}, path="f"), "f"),
        (lambda: OutputFormat.json_schema({"a": float("nan")}, path="f"), "f"),
        (lambda: OutputFormat.json_schema(DEEP, path="f"), "f"),
        (
            lambda: OutputFormat.json_schema({"a": "x" * MAX_FORMAT_BYTES}, path="f"),
            "f",
        ),
        (lambda: OutputFormat.regex("", path="f"), "f"),
        (lambda: OutputFormat.regex(3, path="f"), "f"),  # type: ignore[arg-type]
        (lambda: OutputFormat.regex("a" * (MAX_FORMAT_BYTES + 1), path="f"), "f"),
        (lambda: OutputFormat.regex("\ud800", path="f"), "f"),
        (lambda: OutputFormat.choice([], path="f"), "f"),
        (lambda: OutputFormat.choice("ab", path="f"), "f"),
        (lambda: OutputFormat.choice(["a", ""], path="f"), "f[1]"),
        (lambda: OutputFormat.choice(["a"] * (MAX_CHOICE_TEXTS + 1), path="f"), "f"),
        (lambda: OutputFormat.grammar("", path="f"), "f"),
    ],
)
def test_a_wrong_format_is_refused_by_its_path(make: Any, path: str) -> None:
    with pytest.raises(RequestError) as raised:
        make()
    assert raised.value.param == path
    assert str(raised.value).startswith(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings", [{"stop": "a"}, {"stop_token_ids": [3]}, {"ignore_eos": True}]
)
def test_settings_that_end_answers_are_refused(settings: Any) -> None:
    with pytest.raises(RequestError, match="response_format") as raised:
        GenerationRequest(
            prompt="a",
            sampling=Sampling(**settings),
            output_format=OutputFormat.json_object(path="response_format"),
        )
    assert raised.value.param == next(iter(settings))


def test_a_format_of_another_type_is_refused() -> None:
    with pytest.raises(RequestError, match="OutputFormat"):
        GenerationRequest(prompt="a", output_format="json")  # type: ignore[arg-type]
