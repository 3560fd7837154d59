"""Formats over HTTP, on the demo model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.grammars.walking import RUNAWAY_GRAMMAR, only_b

from .conftest import Server
from .test_openai_fields import chat, complete, question, text_of

pytestmark = pytest.mark.compiles


class Shape(BaseModel):
    name: Literal["circle", "square"]
    color: str = Field(max_length=12)
    count: int = Field(ge=0, le=9)


SCHEMA = Shape.model_json_schema()
FORMAT = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SCHEMA}}


def test_an_answer_without_a_limit_is_a_json_object(server: Server) -> None:
    answer = chat(server, response_format={"type": "json_object"})
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert isinstance(json.loads(text_of(answer)), dict)


def test_answers_fit_a_schema(server: Server) -> None:
    strict = {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}
    answer = chat(server, response_format=strict, n=2, seed=3, max_tokens=100)
    for choice in answer["choices"]:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
        assert choice["finish_reason"] == "stop"
    answer = complete(server, guided_json=SCHEMA, max_tokens=100)
    jsonschema.validate(json.loads(answer["choices"][0]["text"]), SCHEMA)


def test_openais_sdk_parses_answers(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    parsed = client.chat.completions.parse(
        model="mllama-demo",
        messages=question(),
        response_format=Shape,
        max_tokens=100,
    )
    assert isinstance(parsed.choices[0].message.parsed, Shape)
    with client.chat.completions.stream(
        model="mllama-demo", messages=question(), response_format=Shape, max_tokens=100
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Shape)


def test_formats_share_batches_with_free_answers(server: Server) -> None:
    fields: list[dict[str, Any]] = [
        {},
        {"guided_json": SCHEMA},
        {"guided_choice": ["yes", "no"]},
        {},
        {"structured_outputs": {"regex": "[0-9]{4}"}},
        {"guided_json": SCHEMA, "temperature": 1.0, "seed": 3},
    ]
    alone = [text_of(chat(server, max_tokens=100, **each)) for each in fields]
    with ThreadPoolExecutor(len(fields)) as pool:
        together = pool.map(lambda each: chat(server, max_tokens=100, **each), fields)
    assert [text_of(each) for each in together] == alone


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"properties": {"a": {"not": {}}}}},
                }
            },
            "response_format.json_schema.schema.properties.a.not",
        ),
        ({"guided_regex": "(?=a)"}, "guided_regex"),
        ({"guided_grammar": "nonsense"}, "guided_grammar"),
        ({"guided_choice": ["a"], "stop": "b"}, "stop"),
    ],
)
def test_what_can_not_be_honored_is_a_400(
    server: Server, fields: Any, param: str
) -> None:
    body = {"messages": question(), **fields}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_grammar_that_exceeds_a_limit_in_mid_answer_is_a_400(server: Server) -> None:
    logged = len(server.log.read_text())
    body = {"messages": question(), "guided_grammar": RUNAWAY_GRAMMAR}
    body |= {"logit_bias": only_b(), "max_tokens": 60}
    url = f"{server.url}/v1/chat/completions"
    response = httpx.post(url, json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "guided_grammar"
    stream = httpx.post(url, json={**body, "stream": True}, timeout=60).text
    assert "guided_grammar exceeds a limit" in stream.split("data: ")[-1]
    assert "Traceback" not in server.log.read_text()[logged:]
