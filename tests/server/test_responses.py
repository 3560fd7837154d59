"""The Responses API on the demo model."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel, Field

from .conftest import Server
from .test_openai_fields import ANSWER, META, picture

QUESTION = "What is in this picture?"
TOOL: Any = {
    "type": "function",
    "name": "count_shapes",
    "description": "Counts the shapes of a color.",
    "parameters": {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Shape(BaseModel):
    kind: Literal["circle", "square"]
    color: str = Field(max_length=12)


def user(*parts: Any) -> Any:
    return {"role": "user", "content": list(parts)}


def question(url: str | None = None) -> list[Any]:
    image = {"type": "input_image", "image_url": url or picture(), "detail": "auto"}
    return [user(image, {"type": "input_text", "text": QUESTION})]


def test_a_picture_is_seen_before_and_after_the_question(server: Server) -> None:
    # As a client without an SDK sends it, without `detail`.
    text = {"type": "input_text", "text": QUESTION}
    image = {"type": "input_image", "image_url": picture()}
    for parts in ((image, text), (text, image)):
        body = {"model": "mllama-demo", "input": [user(*parts)]}
        answer = httpx.post(f"{server.url}/v1/responses", json=body, timeout=600)
        assert answer.status_code == 200, answer.text
        response = Response.model_validate(answer.json(), strict=True)
        assert response.status == "completed"
        assert response.usage
        assert response.usage.input_tokens > 20
        if parts[0] is image:
            assert response.output_text == ANSWER


def test_the_response_is_that_of_a_chat(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=META,
        input=question(),
        instructions="Be brief.",
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    chat = client.chat.completions.create(
        model=META,
        messages=[
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": picture()}},
                    {"type": "text", "text": QUESTION},
                ],
            },
        ],
        logprobs=True,
        top_logprobs=2,
    )
    (choice,) = chat.choices
    assert response.output_text == choice.message.content
    assert response.usage
    assert chat.usage
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    (message,) = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert choice.logprobs
    entries = [entry.model_dump() for entry in part.logprobs or ()]
    assert entries == [entry.model_dump() for entry in choice.logprobs.content or ()]


def test_the_sdks_stream_helper_gathers_the_whole_response(
    client: openai.OpenAI,
) -> None:
    items: Any = question()
    with client.responses.stream(model=META, input=items) as stream:
        deltas = [
            event.delta
            for event in stream
            if event.type == "response.output_text.delta"
        ]
        response = stream.get_final_response()
    # How many there are depends on how fast they are read.
    assert len(deltas) > 1
    assert "".join(deltas) == response.output_text == ANSWER
    items += [*response.output, {"role": "user", "content": "And?"}]
    assert client.responses.create(model=META, input=items).output_text


def test_an_answer_that_was_cut_goes_on(client: openai.OpenAI) -> None:
    items: Any = question()
    first = client.responses.create(model=META, input=items, max_output_tokens=3)
    assert first.status == "incomplete"
    assert first.incomplete_details
    assert first.incomplete_details.reason == "max_output_tokens"
    rest = client.responses.create(model=META, input=[*items, *first.output])
    assert first.output_text + rest.output_text == ANSWER


@pytest.mark.compiles
def test_an_answer_in_a_format_is_parsed(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        model=META, input=question(), text_format=Shape, max_output_tokens=100
    )
    assert isinstance(response.output_parsed, Shape)


@pytest.mark.compiles
def test_a_forced_call_is_streamed_and_its_result_goes_back(
    client: openai.OpenAI,
) -> None:
    items: Any = question()
    with client.responses.stream(
        model=META,
        input=items,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=100,
    ) as stream:
        deltas = [
            event.delta
            for event in stream
            if event.type == "response.function_call_arguments.delta"
        ]
        response = stream.get_final_response()
    (call,) = response.output
    assert call.type == "function_call"
    assert len(deltas) > 1
    assert "".join(deltas) == call.arguments
    assert json.loads(call.arguments)["color"] in ("red", "blue")
    items += [
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "1"},
    ]
    answer = client.responses.create(
        model=META, input=items, tools=[TOOL], tool_choice="none", max_output_tokens=8
    )
    assert answer.output_text


@pytest.mark.compiles
def test_a_schema_that_can_not_be_honored_is_named_by_its_path(
    client: openai.OpenAI,
) -> None:
    wrong = {"type": "object", "properties": {"a": {"not": {}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(
            model=META,
            input="Hi",
            text={"format": {"type": "json_schema", "name": "n", "schema": wrong}},
        )
    assert caught.value.param == "text.format.schema.properties.a.not"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(
            model=META, input="Hi", tools=[{**TOOL, "parameters": wrong}]
        )
    assert caught.value.param == "tools[0].parameters.properties.a.not"
    assert "function" not in str(caught.value.body)
