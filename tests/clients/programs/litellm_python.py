"""LiteLLM: chats, its stream builder, batches of conversations, and its errors."""

import asyncio
import json
import os
from typing import Any, Literal

# Otherwise the import fetches a list of prices from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
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

UNSUPPORTED = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"not": {}}},
}

# By a name of Meta's, LiteLLM would fetch a tokenizer to count a stream's tokens.
MODEL = "openai/mllama-demo"
GREET: Any = [{"role": "user", "content": HELLO}]
MESSAGES: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": QUESTION},
            {
                "type": "image_url",
                "image_url": {"url": data_url(), "format": "image/png"},
            },
        ],
    }
]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "count_shapes",
        "description": "Counts shapes",
        "parameters": {
            "type": "object",
            "properties": {"color": {"type": "string", "maxLength": 12}},
            "required": ["color"],
        },
    },
}


def ask(url: str, messages: Any = MESSAGES, **options: Any) -> Any:
    """An answer of the server."""
    return litellm.completion(
        **{"model": MODEL, "messages": messages, **server(url), **options}
    )


def server(url: str) -> dict[str, Any]:
    """The options that name the server."""
    return {"api_base": f"{url}/v1", "api_key": "none", "num_retries": 0}


def check_a_text(url: str) -> None:
    answer = ask(url, GREET)
    assert answer.choices[0].message.content == GREETING
    assert answer.choices[0].finish_reason == "stop"


def check_a_picture_and_its_usage(url: str) -> None:
    answer = ask(url)
    assert answer.choices[0].message.content == ANSWER
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.image_tokens


def check_an_async_chat(url: str) -> None:
    async def ask_both() -> Any:
        return await asyncio.gather(
            *(
                litellm.acompletion(model=MODEL, messages=each, **server(url))
                for each in (GREET, MESSAGES)
            )
        )

    answers = asyncio.run(ask_both())
    assert [each.choices[0].message.content for each in answers] == [GREETING, ANSWER]


def check_the_stream_builder_over_two_turns(url: str) -> None:
    messages = list(MESSAGES)
    for expected in (ANSWER, SECOND_ANSWER):
        chunks = list(
            ask(url, messages, stream=True, stream_options={"include_usage": True})
        )
        assert len(chunks) > 2
        answer: Any = litellm.stream_chunk_builder(chunks, messages=messages)
        message = answer.choices[0].message
        assert message.content == expected
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.prompt_tokens_details.image_tokens
        messages += [message, {"role": "user", "content": SECOND_QUESTION}]


def check_an_async_stream(url: str) -> None:
    async def gather() -> str:
        stream: Any = await litellm.acompletion(
            model=MODEL, messages=MESSAGES, stream=True, **server(url)
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(gather()) == ANSWER


def check_an_answer_comes_back_as_the_next_turn(url: str) -> None:
    first = ask(url).choices[0].message
    for turn in (first, first.model_dump()):
        messages = [*MESSAGES, turn, {"role": "user", "content": SECOND_QUESTION}]
        assert ask(url, messages).choices[0].message.content == SECOND_ANSWER


def check_a_system_prompt_and_a_stop_string(url: str) -> None:
    messages = [{"role": "system", "content": "Answer briefly."}, *MESSAGES]
    answer = ask(url, messages, stop=[" left"], max_tokens=30, seed=1, user="somebody")
    assert answer.choices[0].message.content == ANSWER.partition(" left")[0]


def check_several_choices(url: str) -> None:
    answer = ask(url, n=3, temperature=2, seed=3, max_tokens=8)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def check_log_probabilities(url: str) -> None:
    answer = ask(url, logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].token == entry.token


def check_a_batch_of_conversations(url: str) -> None:
    answers = litellm.batch_completion(
        model=MODEL, messages=[GREET, MESSAGES], **server(url)
    )
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts == [GREETING, ANSWER]


def check_a_text_completion(url: str) -> None:
    for prompt in ("A red", ["A red"]):
        answer: Any = litellm.text_completion(
            model=MODEL.replace("openai/", "text-completion-openai/"),
            prompt=prompt,
            max_tokens=4,
            **server(url),
        )
        assert answer.choices[0].text
        assert answer.usage.completion_tokens <= 4


def check_tools(url: str) -> None:
    call = {"name": "count_shapes", "arguments": '{"color": "red"}'}
    messages = [
        *GREET,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    for sent in (GREET, messages):
        answer = ask(url, sent, tools=[TOOL], tool_choice="auto", max_tokens=8)
        assert answer.usage.prompt_tokens > ask(url, GREET).usage.prompt_tokens


def check_a_forced_call(url: str) -> None:
    options: Any = {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "count_shapes"}},
        "parallel_tool_calls": False,
        "max_tokens": 300,
        "temperature": 0,
    }
    whole = ask(url, **options).choices[0]
    built: Any = litellm.stream_chunk_builder(list(ask(url, stream=True, **options)))
    for choice in (whole, built.choices[0]):
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "count_shapes"
        assert set(json.loads(call.function.arguments)) == {"color"}


class Shape(BaseModel):
    """A shape in the picture."""

    kind: Literal["circle", "square", "star"]
    color: str = Field(max_length=12)


def check_json(url: str) -> None:
    answer = ask(url, response_format=Shape, max_tokens=300)
    Shape.model_validate_json(answer.choices[0].message.content)
    answer = ask(url, response_format={"type": "json_object"}, max_tokens=8)
    assert answer.choices[0].message.content.startswith("{")


def error_of(kind: Any, url: str, **options: Any) -> Any:
    """The error of a chat."""
    try:
        ask(url, **options)
    except kind as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    error = error_of(litellm.NotFoundError, url, model="openai/gpt-4o")
    assert "gpt-4o" in error.message
    error = error_of(litellm.BadRequestError, url, extra_body={"color": 1})
    assert "`color`" in error.message
    error = error_of(litellm.BadRequestError, url, response_format=UNSUPPORTED)
    assert "response_format.json_schema.schema.not" in error.message
    error = error_of(litellm.BadRequestError, url, tools=[TOOL], tool_choice="any")
    assert "tool_choice" in error.message
    error = error_of(litellm.NotFoundError, url, model="openai/gpt-4o", stream=True)
    assert error.status_code == 404
