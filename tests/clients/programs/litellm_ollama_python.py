"""LiteLLM's routes to Ollama: ``ollama/`` for prompts, ``ollama_chat/`` for chats."""

import asyncio
import os
from typing import Any

from picture import (
    ANSWER,
    GREETING,
    HELLO,
    QUESTION,
    SECOND_ANSWER,
    SECOND_QUESTION,
    data_url,
)
from pydantic import BaseModel, Field

# Prices come from the network otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

CHAT, PROMPT = "ollama_chat/llama3.2-vision", "ollama/llama3.2-vision"
GREET = [{"role": "user", "content": HELLO}]
PICTURE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": QUESTION},
            {"type": "image_url", "image_url": {"url": data_url()}},
        ],
    }
]
TOOL = {
    "type": "function",
    "function": {
        "name": "count_shapes",
        "description": "Counts shapes",
        "parameters": {"type": "object", "properties": {"color": {"type": "string"}}},
    },
}


def ask(url: str, messages: Any, **options: Any) -> Any:
    asked = {"model": CHAT, "temperature": 0, "num_retries": 0, **options}
    return litellm.completion(**asked, messages=messages, api_base=url)


def check_a_text(url: str) -> None:
    answer = ask(url, GREET)
    assert answer.choices[0].message.content == GREETING
    assert answer.choices[0].finish_reason == "stop"


def check_a_picture_and_its_usage(url: str) -> None:
    answer = ask(url, PICTURE)
    assert answer.choices[0].message.content == ANSWER
    usage = answer.usage
    assert usage.prompt_tokens > usage.completion_tokens > 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def check_the_route_of_prompts(url: str) -> None:
    # LiteLLM writes the roles into the prompt, which the demo model has never seen.
    for messages in (GREET, PICTURE):
        answer = ask(url, messages, model=PROMPT, max_tokens=8)
        assert answer.choices[0].message.content
        chunks = list(ask(url, messages, model=PROMPT, max_tokens=8, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text.strip() == answer.choices[0].message.content.strip()


def check_a_stream_over_two_turns(url: str) -> None:
    messages = [*PICTURE]
    for expected in (ANSWER, SECOND_ANSWER):
        chunks = list(ask(url, messages, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == expected
        messages += [
            {"role": "assistant", "content": text},
            {"role": "user", "content": SECOND_QUESTION},
        ]


def check_async_chats(url: str) -> None:
    async def gather() -> Any:
        options = {"model": CHAT, "messages": GREET, "temperature": 0}
        return await asyncio.gather(
            *(litellm.acompletion(**options, api_base=url) for _ in range(2))
        )

    texts = [each.choices[0].message.content for each in asyncio.run(gather())]
    assert texts == [GREETING] * 2


def check_options(url: str) -> None:
    answer = ask(url, PICTURE, stop=[" left"], seed=1, top_p=0.9)
    assert answer.choices[0].message.content == ANSWER.partition(" left")[0]
    answer = ask(url, PICTURE, max_tokens=2, num_ctx=2048, keep_alive="5m")
    assert answer.choices[0].finish_reason == "length"


class Shape(BaseModel):
    """A shape in the picture."""

    kind: str = Field(max_length=12)
    count: int


def check_formats(url: str) -> None:
    answer = ask(url, PICTURE, response_format=Shape)
    Shape.model_validate_json(answer.choices[0].message.content)
    answer = ask(url, GREET, response_format={"type": "json_object"}, max_tokens=4)
    assert answer.choices[0].message.content.startswith("{")


def check_tools(url: str) -> None:
    call = {"name": "count_shapes", "arguments": '{"color": "red"}'}
    called = [
        *GREET,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    plain = ask(url, GREET).usage.prompt_tokens
    for messages in (GREET, called):
        answer = ask(url, messages, tools=[TOOL], max_tokens=4)
        assert answer.usage.prompt_tokens > plain


def error_of(url: str, **options: Any) -> Any:
    """The error of a chat."""
    try:
        list(ask(url, GREET, **options))
    except (litellm.APIConnectionError, litellm.NotFoundError) as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    for stream in (False, True):
        error = error_of(url, model="ollama_chat/llava", stream=stream)
        assert "model 'llava' not found" in error.message
