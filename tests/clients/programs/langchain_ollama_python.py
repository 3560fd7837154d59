"""LangChain's ChatOllama: messages with parts, streams, structured output, tools."""

import asyncio
from typing import Any

import ollama
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_ollama import ChatOllama, OllamaLLM
from picture import (
    ANSWER,
    GREETING,
    HELLO,
    QUESTION,
    SECOND_ANSWER,
    SECOND_QUESTION,
    base64_png,
    data_url,
)
from pydantic import BaseModel, Field

MODEL = "llama3.2-vision:11b"


def model(url: str, **options: Any) -> ChatOllama:
    defaults = {"model": MODEL, "temperature": 0, "validate_model_on_init": False}
    return ChatOllama(**{**defaults, **options}, base_url=url)


def question(part: Any = None) -> HumanMessage:
    shown = part or {"type": "image_url", "image_url": data_url()}
    return HumanMessage([shown, {"type": "text", "text": QUESTION}])


def check_a_text(url: str) -> None:
    answer = model(url, num_ctx=2048, num_gpu=0, repeat_last_n=64).invoke(HELLO)
    assert answer.content == GREETING
    assert answer.response_metadata["done_reason"] == "stop"
    assert OllamaLLM(model=MODEL, base_url=url, temperature=0).invoke(HELLO) == GREETING


def check_a_picture_and_its_usage(url: str) -> None:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_url()}},
        {"type": "image", "base64": base64_png(), "mime_type": "image/png"},
    ]
    for part in parts:
        answer = model(url).invoke([SystemMessage("Be brief."), question(part)])
        assert "circle" in str(answer.content)
        usage = answer.usage_metadata
        assert usage
        total = usage["input_tokens"] + usage["output_tokens"]
        assert usage["total_tokens"] == total


def check_a_stream_over_two_turns(url: str) -> None:
    messages: list[Any] = [question()]
    # LangChain puts a line break before the text of a message with parts.
    first = "".join(str(chunk.content) for chunk in model(url).stream(messages))
    messages += [AIMessage(ANSWER), HumanMessage(SECOND_QUESTION)]
    chunks = list(model(url).stream(messages))
    assert len(chunks) > 1
    assert "circle" in first
    assert "".join(str(chunk.content) for chunk in chunks) == SECOND_ANSWER


def check_async_chats(url: str) -> None:
    async def ask() -> Any:
        return await asyncio.gather(*(model(url).ainvoke(HELLO) for _ in range(2)))

    assert [answer.content for answer in asyncio.run(ask())] == [GREETING] * 2


def check_a_stop_string_and_a_limit(url: str) -> None:
    answer = model(url).invoke(HELLO, stop=[" Show"])
    assert answer.content == GREETING.partition(" Show")[0]
    answer = model(url, num_predict=2).invoke(HELLO)
    assert answer.response_metadata["done_reason"] == "length"


class Shape(BaseModel):
    """A shape in the picture."""

    kind: str = Field(max_length=12)
    count: int


def check_structured_output(url: str) -> None:
    asked = model(url).with_structured_output(Shape, method="json_schema")
    assert isinstance(asked.invoke([question()]), Shape)
    answer = model(url, format="json", num_predict=4).invoke(HELLO)
    assert str(answer.content).startswith("{")


def count_shapes(color: str) -> int:
    """Counts shapes."""
    return len(color)


def check_tools(url: str) -> None:
    called = [
        HumanMessage(HELLO),
        AIMessage(
            "",
            tool_calls=[{"name": "count_shapes", "args": {"color": "red"}, "id": "a"}],
        ),
        ToolMessage("3", tool_call_id="a"),
    ]
    with_tools = model(url, num_predict=4).bind_tools([count_shapes])
    plain = model(url).invoke(HELLO).usage_metadata
    for messages in (called[:1], called):
        usage = with_tools.invoke(messages).usage_metadata
        assert usage
        assert plain
        assert usage["input_tokens"] > plain["input_tokens"]


def check_the_model_is_found_at_the_start(url: str) -> None:
    name = ollama.Client(host=url).list().models[0].model
    assert model(url, model=name, validate_model_on_init=True).invoke(HELLO).content


def error_of(asked: ChatOllama) -> ollama.ResponseError:
    """The error of a chat."""
    try:
        asked.invoke(HELLO)
    except ollama.ResponseError as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    error = error_of(model(url, model="llava"))
    assert (error.status_code, error.error) == (404, "model 'llava' not found")
    assert "`options.mirostat`" in error_of(model(url, mirostat=2)).error
