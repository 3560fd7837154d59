"""Anthropic's Python SDK: sync, async, its stream helper, tools, and its errors.

Answers are validated against the SDK's own types.
"""

import asyncio
import base64
import tempfile
from pathlib import Path
from typing import Any, Literal

from anthropic import (
    Anthropic,
    AsyncAnthropic,
    BadRequestError,
    NotFoundError,
    beta_tool,
)
from picture import ANSWER, QUESTION, base64_png, data_url, png
from pydantic import BaseModel

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"
IMAGE: Any = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64_png()},
}
TEXT: Any = {"type": "text", "text": QUESTION}
MESSAGES: Any = [{"role": "user", "content": [IMAGE, TEXT]}]
TOOL: Any = {
    "name": "count_shapes",
    "description": "Counts the shapes of a color.",
    "input_schema": {
        "type": "object",
        "properties": {
            "color": {"enum": ["red", "blue"]},
            "also_hidden": {"type": "boolean"},
        },
        "required": ["color", "also_hidden"],
        "additionalProperties": False,
    },
}


class Shape(BaseModel):
    """A shape in the picture."""

    kind: Literal["circle", "square", "star"]
    color: Literal["red", "blue"]


class Picture(BaseModel):
    """What the picture shows."""

    shape: Shape
    is_drawn: bool


def client(url: str) -> Anthropic:
    return Anthropic(
        base_url=url,
        api_key="none",
        max_retries=0,
        _strict_response_validation=True,
    )


def text_of(message: Any) -> str:
    (block,) = message.content
    assert block.type == "text"
    text: str = block.text
    return text


def check_a_message(url: str) -> None:
    message = client(url).messages.create(model=MODEL, max_tokens=50, messages=MESSAGES)
    assert text_of(message) == ANSWER
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens
    assert message._request_id


def check_images_in_every_form(url: str) -> None:
    sources: list[Any] = [
        {"type": "url", "url": data_url()},
        {"type": "base64", "media_type": "image/png", "data": base64_png()},
    ]
    messages = client(url).messages
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        file.write_bytes(png())
        data = base64.b64encode(file.read_bytes()).decode()
        sources += [
            {"type": "base64", "media_type": "image/png", "data": file},
            {"type": "base64", "media_type": "image/png", "data": data},
        ]
        for source in sources:
            content: Any = [{"type": "image", "source": source}, TEXT]
            message = messages.create(
                model=MODEL,
                max_tokens=50,
                messages=[{"role": "user", "content": content}],
            )
            assert text_of(message) == ANSWER


def check_an_async_message(url: str) -> None:
    async def ask() -> Any:
        asked = AsyncAnthropic(base_url=url, auth_token="none", max_retries=0)
        return await asyncio.gather(
            *(
                asked.messages.create(model=MODEL, max_tokens=50, messages=MESSAGES)
                for _ in range(3)
            )
        )

    assert [text_of(message) for message in asyncio.run(ask())] == [ANSWER] * 3


def check_a_stream_of_events(url: str) -> None:
    events = list(
        client(url).messages.create(
            model=MODEL, max_tokens=50, messages=MESSAGES, stream=True
        )
    )
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def check_the_stream_helper(url: str) -> None:
    whole = client(url).messages.create(model=MODEL, max_tokens=50, messages=MESSAGES)
    with client(url).messages.stream(
        model=MODEL, max_tokens=50, messages=MESSAGES
    ) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
        assert stream.get_final_text() == ANSWER
    assert text_of(final) == ANSWER
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert prompt_tokens(final.usage) == prompt_tokens(whole.usage)


def prompt_tokens(usage: Any) -> int:
    total: int = (
        usage.input_tokens
        + usage.cache_read_input_tokens
        + usage.cache_creation_input_tokens
    )
    return total


def check_an_answer_comes_back_as_the_next_turn(url: str) -> None:
    messages = client(url).messages
    first = messages.create(model=MODEL, max_tokens=50, messages=MESSAGES)
    turns: Any = ({"role": "assistant", "content": first.content}, first.to_param())
    for turn in turns:
        follow_up: Any = {"role": "user", "content": QUESTION}
        answer = messages.create(
            model=MODEL, max_tokens=8, messages=[*MESSAGES, turn, follow_up]
        )
        assert answer.content


def check_instructions_and_stop_sequences(url: str) -> None:
    message = client(url).messages.create(
        model=MODEL,
        max_tokens=50,
        system=[
            {
                "type": "text",
                "text": "Be brief.",
                "cache_control": {"type": "ephemeral"},
            }
        ],
        messages=MESSAGES,
        stop_sequences=["never", "."],
        metadata={"user_id": "somebody"},
        thinking={"type": "adaptive"},
        extra_body={"temperature": 0, "top_k": 1},
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", ".")
    assert "." not in text_of(message)


def check_the_assistants_last_turn_goes_on(url: str) -> None:
    beginning, end = ANSWER[: ANSWER.index(" of")], ANSWER[ANSWER.index(" of") :]
    message = client(url).messages.create(
        model=MODEL,
        max_tokens=50,
        messages=[*MESSAGES, {"role": "assistant", "content": beginning}],
    )
    assert text_of(message) == end


def check_tokens_are_counted(url: str) -> None:
    messages = client(url).messages
    for request in (
        {"messages": MESSAGES},
        {"messages": MESSAGES, "system": "Be brief.", "tools": [TOOL]},
        {"messages": [{"role": "user", "content": "Hello"}]},
    ):
        counted: Any = messages.count_tokens(model=MODEL, **request)
        message = messages.create(model=MODEL, max_tokens=1, **request)
        assert counted.input_tokens == prompt_tokens(message.usage)


def check_a_forced_call_whose_result_goes_back(url: str) -> None:
    messages = client(url).messages
    turns: Any = list(MESSAGES)
    with messages.stream(
        model=MODEL,
        max_tokens=300,
        messages=turns,
        tools=[TOOL],
        tool_choice={
            "type": "tool",
            "name": "count_shapes",
            "disable_parallel_tool_use": True,
        },
    ) as stream:
        deltas = [event for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    assert len(deltas) > 1
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert call.type == "tool_use"
    assert sorted(call.input) == ["also_hidden", "color"]
    result: Any = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [TEXT, IMAGE],
    }
    turns += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = messages.create(
        model=MODEL,
        max_tokens=8,
        messages=turns,
        tools=[TOOL],
        tool_choice={"type": "none"},
    )
    assert answer.content


def check_the_tool_runner(url: str) -> None:
    asked: list[str] = []

    @beta_tool
    def count_shapes(color: Literal["red", "blue"]) -> str:
        """Counts the shapes of a color.

        Args:
            color: The color.
        """
        asked.append(color)
        return "1"

    runner = client(url).beta.messages.tool_runner(
        model=MODEL,
        max_tokens=100,
        messages=MESSAGES,
        tools=[count_shapes],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_iterations=2,
    )
    turns = list(runner)
    assert [turn.stop_reason for turn in turns] == ["tool_use"] * 2
    assert set(asked) <= {"red", "blue"}
    assert asked


def check_a_pydantic_model_as_the_format(url: str) -> None:
    message = client(url).messages.parse(
        model=MODEL, max_tokens=300, messages=MESSAGES, output_format=Picture
    )
    assert isinstance(message.parsed_output, Picture)
    with client(url).messages.stream(
        model=MODEL, max_tokens=300, messages=MESSAGES, output_format=Picture
    ) as stream:
        assert stream.get_final_message().parsed_output == message.parsed_output


def check_models(url: str) -> None:
    models = client(url).models
    (model,) = models.list()
    assert models.retrieve(MODEL).id == model.id


def error_of(kind: Any, url: str, **request: Any) -> Any:
    """The error of a request."""
    options: Any = {"model": MODEL, "max_tokens": 5, "messages": MESSAGES, **request}
    try:
        client(url).messages.create(**options)
    except kind as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    error = error_of(BadRequestError, url, extra_body={"color": 1})
    assert error.type == "invalid_request_error"
    assert error.api_message.startswith("`color` ")
    assert error.request_id == error.body["request_id"]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    error = error_of(BadRequestError, url, thinking=thinking, stream=True)
    assert error.api_message.startswith("`thinking.type` ")
    error = error_of(NotFoundError, url, model="claude-sonnet-4-5")
    assert error.type == "not_found_error"
    assert "mllama-demo" in error.api_message


def check_a_closed_stream_frees_the_server(url: str) -> None:
    messages = client(url).messages
    for _ in range(6):
        stream = messages.create(
            model=MODEL, max_tokens=500, messages=MESSAGES, stream=True
        )
        next(iter(stream))
        stream.close()
    assert messages.create(model=MODEL, max_tokens=5, messages=MESSAGES).content
