"""LlamaIndex's Ollama: blocks of messages, streams, structured output, tools."""

import asyncio
from typing import Any

import ollama
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from picture import (
    ANSWER,
    GREETING,
    HELLO,
    QUESTION,
    SECOND_ANSWER,
    SECOND_QUESTION,
    png,
)
from pydantic import BaseModel, Field

MODEL = "llama3.2-vision"


def model(url: str, **options: Any) -> Ollama:
    defaults = {"model": MODEL, "temperature": 0, "request_timeout": 120}
    return Ollama(**{**defaults, **options}, base_url=url)


def question() -> ChatMessage:
    blocks = [TextBlock(text=QUESTION), ImageBlock(image=png())]
    return ChatMessage(role="user", blocks=blocks)


def check_a_text(url: str) -> None:
    assert model(url).chat([ChatMessage(HELLO)]).message.content == GREETING
    assert model(url).complete(HELLO).text == GREETING


def check_the_context_is_the_servers(url: str) -> None:
    shown = ollama.Client(host=url).show(MODEL).modelinfo
    assert shown
    expected = shown["mllama.context_length"]
    assert model(url).metadata.context_window == expected


def check_a_picture_over_two_turns(url: str) -> None:
    answer = model(url).chat([question()])
    assert answer.message.content == ANSWER
    usage = answer.raw["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    messages = [question(), answer.message, ChatMessage(SECOND_QUESTION)]
    assert model(url).chat(messages).message.content == SECOND_ANSWER


def check_streams(url: str) -> None:
    answers = list(model(url).stream_chat([question()]))
    assert len(answers) > 2
    assert answers[-1].message.content == ANSWER

    async def gather() -> Any:
        stream = await model(url).astream_chat([ChatMessage(HELLO)])
        return [answer async for answer in stream]

    assert asyncio.run(gather())[-1].message.content == GREETING


def check_options(url: str) -> None:
    short = model(url, additional_kwargs={"num_predict": 2}, keep_alive="5m")
    assert short.chat([question()]).raw["done_reason"] == "length"
    json_mode = model(url, json_mode=True, additional_kwargs={"num_predict": 4})
    assert str(json_mode.complete(HELLO).text).startswith("{")


class Shape(BaseModel):
    """A shape in the picture."""

    kind: str = Field(max_length=12)
    count: int


def check_structured_output(url: str) -> None:
    asked = model(url).as_structured_llm(Shape)
    assert isinstance(asked.chat([ChatMessage(HELLO)]).raw, Shape)


def count_shapes(color: str) -> int:
    """Counts shapes."""
    return len(color)


def check_tools(url: str) -> None:
    asked = model(url, additional_kwargs={"num_predict": 4})
    tools = [FunctionTool.from_defaults(count_shapes)]
    call = ToolCallBlock(tool_name="count_shapes", tool_kwargs={"color": "red"})
    called = [
        ChatMessage(HELLO),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage("3", role="tool"),
    ]
    plain = asked.chat([ChatMessage(HELLO)]).raw["usage"]["prompt_tokens"]
    for messages in (called[:1], called):
        answer = asked.chat_with_tools(tools, chat_history=messages)
        assert answer.raw["usage"]["prompt_tokens"] > plain


def error_of(asked: Ollama) -> ollama.ResponseError:
    """The error of a chat."""
    try:
        asked.chat([ChatMessage(HELLO)])
    except ollama.ResponseError as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    assert error_of(model(url, model="llava", context_window=99)).status_code == 404
    error = error_of(model(url, additional_kwargs={"tfs_z": 0.5}))
    assert "`options.tfs_z`" in error.error
