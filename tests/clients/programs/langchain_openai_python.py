"""LangChain's ChatOpenAI and OpenAI: messages, chunks that add up, and batches."""

import asyncio
from functools import reduce
from operator import add
from typing import Any, Literal

import openai
from langchain_core.exceptions import ModelNotFoundError
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
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

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"
PICTURE = {
    "openai": {"type": "image_url", "image_url": {"url": data_url()}},
    "standard": {"type": "image", "base64": base64_png(), "mime_type": "image/png"},
    "older": {
        "type": "image",
        "source_type": "base64",
        "data": base64_png(),
        "mime_type": "image/png",
    },
}
"""The forms in which LangChain's messages have pictures."""

# LangChain keeps an HTTP client for all of a process, and with it its event loop.
wait_for = asyncio.new_event_loop().run_until_complete


def client(url: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        **{"model": MODEL, **options},
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
    )


def question(form: str = "standard") -> HumanMessage:
    """A question about the picture."""
    return HumanMessage([{"type": "text", "text": QUESTION}, PICTURE[form]])


def check_a_text(url: str) -> None:
    answer = client(url).invoke(HELLO)
    assert answer.content == GREETING
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_provider"] == "openai"


def check_a_picture_in_each_form(url: str) -> None:
    for form in PICTURE:
        answer = client(url).invoke([SystemMessage("Be brief."), question(form)])
        assert answer.content == ANSWER, form


def check_usage(url: str) -> None:
    for answer in (
        client(url).invoke([question()]),
        reduce(add, client(url, stream_usage=True).stream([question()])),
    ):
        usage = answer.usage_metadata
        assert usage
        assert usage["input_tokens"] > usage["output_tokens"] > 1
        total = usage["input_tokens"] + usage["output_tokens"]
        assert usage["total_tokens"] == total


def check_chunks_that_add_up_over_two_turns(url: str) -> None:
    messages: list[Any] = [question()]
    for expected in (ANSWER, SECOND_ANSWER):
        chunks = list(client(url).stream(messages))
        assert len(chunks) > 2
        answer = reduce(add, chunks)
        assert answer.content == expected
        messages += [answer, HumanMessage(SECOND_QUESTION)]


def check_an_async_stream(url: str) -> None:
    async def gather() -> Any:
        return [chunk async for chunk in client(url).astream([question()])]

    assert reduce(add, wait_for(gather())).content == ANSWER


def check_an_answer_comes_back_as_the_next_turn(url: str) -> None:
    first = client(url).invoke([question()])
    second = client(url).invoke([question(), first, HumanMessage(SECOND_QUESTION)])
    assert second.content == SECOND_ANSWER


def check_a_chain(url: str) -> None:
    prompt = ChatPromptTemplate(
        [
            (
                "human",
                [
                    {"type": "image_url", "image_url": {"url": "{picture}"}},
                    {"type": "text", "text": "{question}"},
                ],
            )
        ]
    )
    answer = (prompt | client(url)).invoke(
        {"picture": data_url(), "question": QUESTION}
    )
    assert answer.content == ANSWER


def check_a_batch(url: str) -> None:
    answers = client(url).batch([[HumanMessage(HELLO)], [question()]])
    assert [answer.content for answer in answers] == [GREETING, ANSWER]

    async def ask() -> Any:
        return await client(url).abatch([[HumanMessage(HELLO)], [question()]])

    assert [answer.content for answer in wait_for(ask())] == [GREETING, ANSWER]


def check_several_choices(url: str) -> None:
    sampler = client(url, n=3, temperature=2, seed=3, max_tokens=8)
    (choices,) = sampler.generate([[question()]]).generations
    assert len(choices) == 3
    assert len({choice.text for choice in choices}) > 1


def check_a_stop_string_and_a_limit(url: str) -> None:
    answer = client(url, stop_sequences=[" left"], temperature=0).invoke([question()])
    assert answer.content == ANSWER.partition(" left")[0]
    answer = client(url).invoke([question()], stop=["blue"])
    assert answer.content == ANSWER.partition("blue")[0]
    answer = client(url, max_tokens=2).invoke([question()])
    assert answer.response_metadata["finish_reason"] == "length"


def check_log_probabilities(url: str) -> None:
    model = client(url, logprobs=True, top_logprobs=2)
    for answer in (
        model.invoke([question()]),
        reduce(add, model.stream([question()])),
    ):
        entries = answer.response_metadata["logprobs"]["content"]
        assert len(entries) > 1
        assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


def check_a_text_completion(url: str) -> None:
    model = OpenAI(
        model=MODEL,
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        max_tokens=8,
        temperature=0,
    )
    answer = model.invoke("A red")
    assert answer
    assert "".join(model.stream("A red")) == answer
    assert model.batch(["A red", "A red"]) == [answer] * 2


@tool
def count_shapes(color: Literal["red", "blue"]) -> int:
    """Counts shapes."""
    return len(color)


def check_tools(url: str) -> None:
    model = client(url, max_tokens=8)
    plain = model.invoke(HELLO).usage_metadata
    call = {"name": "count_shapes", "args": {"color": "red"}, "id": "a"}
    called = [
        HumanMessage(HELLO),
        AIMessage("", tool_calls=[call]),
        ToolMessage("1", tool_call_id="a"),
    ]
    for messages in ([HumanMessage(HELLO)], called):
        for options in ({}, {"parallel_tool_calls": False, "tool_choice": "auto"}):
            bound = model.bind_tools([count_shapes], **options)
            told = bound.invoke(messages).usage_metadata
            assert plain
            assert told
            assert told["input_tokens"] > plain["input_tokens"]


class Shape(BaseModel):
    """A shape in the picture."""

    kind: Literal["circle", "square", "star"]
    color: str = Field(max_length=12)


def check_structured_output(url: str) -> None:
    model = client(url, max_tokens=300)
    for method, strict in (
        ("json_schema", None),
        ("json_schema", True),
        ("function_calling", None),
        ("function_calling", True),
    ):
        structured = model.with_structured_output(Shape, method=method, strict=strict)
        assert isinstance(structured.invoke([question()]), Shape), (method, strict)


def check_forced_calls(url: str) -> None:
    model = client(url, max_tokens=300)
    for choice in ("any", "count_shapes"):
        bound = model.bind_tools(
            [count_shapes], tool_choice=choice, parallel_tool_calls=False, strict=True
        )
        for answer in (
            bound.invoke([question()]),
            reduce(add, bound.stream([question()])),
        ):
            assert not answer.invalid_tool_calls
            (call,) = answer.tool_calls
            assert call["name"] == "count_shapes"
            assert set(call["args"]) == {"color"}


def error_of(kind: Any, model: ChatOpenAI) -> Any:
    """The error of a chat."""
    try:
        model.invoke(HELLO)
    except kind as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    error = error_of(ModelNotFoundError, client(url, model="gpt-4o"))
    assert error.code == "model_not_found"
    model = client(url, extra_body={"color": 1})
    error = error_of(openai.BadRequestError, model)
    assert error.param == "color"
    schema = {"name": "a", "schema": {"not": {}}}
    unsupported = {"type": "json_schema", "json_schema": schema}
    model = client(url, model_kwargs={"response_format": unsupported})
    error = error_of(openai.BadRequestError, model)
    assert error.param == "response_format.json_schema.schema.not"
