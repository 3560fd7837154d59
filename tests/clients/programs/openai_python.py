"""OpenAI's Python SDK: sync, async, its stream helper, and its errors."""

import asyncio
import json
from typing import Any, Literal

from openai import (
    AsyncOpenAI,
    BadRequestError,
    NotFoundError,
    OpenAI,
    pydantic_function_tool,
)
from picture import ANSWER, QUESTION, data_url
from pydantic import BaseModel, Field

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"
MESSAGES: Any = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": data_url()}},
            {"type": "text", "text": QUESTION},
        ],
    }
]
ITEMS: Any = [
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": data_url(), "detail": "auto"},
            {"type": "input_text", "text": QUESTION},
        ],
    }
]


class Shape(BaseModel):
    """A shape in the picture."""

    kind: Literal["circle", "square", "star"]
    color: str = Field(max_length=12)


class Picture(BaseModel):
    """What the picture shows."""

    shapes: list[Shape] = Field(min_length=1, max_length=2)
    is_drawn: bool


class CountShapes(BaseModel):
    """Counts the shapes of a color."""

    color: Literal["red", "blue"]
    also_hidden: bool


TOOLS: Any = [pydantic_function_tool(CountShapes, name="count_shapes")]


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def async_client(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def check_a_chat(url: str) -> None:
    answer = client(url).chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage
    assert usage.prompt_tokens_details
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def check_an_async_chat(url: str) -> None:
    async def ask() -> Any:
        return await asyncio.gather(
            *(
                async_client(url).chat.completions.create(
                    model=MODEL, messages=MESSAGES
                )
                for _ in range(4)
            )
        )

    answers = asyncio.run(ask())
    assert [each.choices[0].message.content for each in answers] == [ANSWER] * 4


def check_a_stream(url: str) -> None:
    chunks = list(
        client(url).chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == ANSWER
    roles = [chunk.choices[0].delta.role for chunk in chunks if chunk.choices]
    assert roles[0] == "assistant"
    assert set(roles[1:]) == {None}
    assert chunks[-1].usage


def check_the_stream_helper_over_two_turns(url: str) -> None:
    messages = list(MESSAGES)
    for _ in range(2):
        with client(url).chat.completions.stream(
            model=MODEL, messages=messages
        ) as stream:
            kinds = {event.type for event in stream}
            message = stream.get_final_completion().choices[0].message
        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert message.role == "assistant"
        messages += [message, {"role": "user", "content": QUESTION}]
    assert messages[1].content == ANSWER


def check_the_async_stream_helper(url: str) -> None:
    async def ask() -> Any:
        async with async_client(url).chat.completions.stream(
            model=MODEL, messages=MESSAGES, logprobs=True, top_logprobs=0
        ) as stream:
            return await stream.get_final_completion()

    answer = asyncio.run(ask())
    assert answer.choices[0].message.content == ANSWER
    entries = answer.choices[0].logprobs.content
    spoken = b"".join(
        bytes(entry.bytes) for entry in entries if not entry.token.startswith("<|")
    )
    assert spoken.decode() == ANSWER


def check_an_answer_comes_back_as_the_next_turn(url: str) -> None:
    completions = client(url).chat.completions
    first = completions.create(model=MODEL, messages=MESSAGES).choices[0].message
    for turn in (first, first.model_dump(), first.model_dump(exclude_none=True)):
        messages = [*MESSAGES, turn, {"role": "user", "content": QUESTION}]
        assert completions.create(model=MODEL, messages=messages).choices


def check_several_choices(url: str) -> None:
    answer = client(url).chat.completions.create(
        model=MODEL, messages=MESSAGES, n=3, temperature=2, seed=3, max_tokens=8
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def check_a_chat_without_an_image(url: str) -> None:
    completions = client(url).chat.completions
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
    ]
    answer = completions.create(model=MODEL, messages=messages, max_tokens=12)
    content = answer.choices[0].message.content
    assert content
    assert answer.usage
    assert answer.usage.prompt_tokens < 100
    chunks = completions.create(
        model=MODEL, messages=messages, max_tokens=12, stream=True
    )
    assert content == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def check_stop(url: str) -> None:
    completions = client(url).chat.completions
    beginning, stop = ANSWER[: ANSWER.index(" of")], " of"
    for given in (stop, [stop], ["never", stop]):
        choice = completions.create(model=MODEL, messages=MESSAGES, stop=given).choices[
            0
        ]
        assert (choice.message.content, choice.finish_reason) == (beginning, "stop")
    with completions.stream(model=MODEL, messages=MESSAGES, stop=[stop]) as stream:
        assert stream.get_final_completion().choices[0].message.content == beginning


def check_tools_in_the_prompt(url: str) -> None:
    completions = client(url).chat.completions
    tool: Any = {
        "type": "function",
        "function": {
            "name": "look_around",
            "description": "Looks around. " * 20,
            "parameters": {"type": "object", "properties": {}},
        },
    }
    call: Any = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look_around", "arguments": "{}"},
    }
    turns: Any = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a wall " * 20},
    ]

    def prompt_tokens(messages: Any, **options: Any) -> int:
        usage = completions.create(
            model=MODEL, messages=messages, max_tokens=1, **options
        ).usage
        assert usage
        return usage.prompt_tokens

    plain = prompt_tokens(MESSAGES)
    described = prompt_tokens(MESSAGES, tools=[tool])
    assert described > plain + 40
    assert prompt_tokens(MESSAGES, tools=[tool], tool_choice="none") == plain
    assert prompt_tokens(turns, tools=[tool]) > described + 40


def check_a_pydantic_model_as_the_format(url: str) -> None:
    answer = client(url).chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Picture, max_tokens=300
    )
    assert isinstance(answer.choices[0].message.parsed, Picture)
    assert answer.choices[0].finish_reason == "stop"


def check_a_pydantic_model_in_a_stream(url: str) -> None:
    with client(url).chat.completions.stream(
        model=MODEL, messages=MESSAGES, response_format=Picture, max_tokens=300
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert {"content.delta", "content.done"} <= kinds
    assert isinstance(message.parsed, Picture)


def check_tools_that_the_model_need_not_call(url: str) -> None:
    answer = client(url).chat.completions.parse(
        model=MODEL, messages=MESSAGES, tools=TOOLS, response_format=Picture,
        max_tokens=300,
    )  # fmt: skip
    message = answer.choices[0].message
    assert message.parsed or message.tool_calls


def check_a_call_parsed_into_a_pydantic_model(url: str) -> None:
    choice: Any = {"type": "function", "function": {"name": "count_shapes"}}
    for forced in ("required", choice):
        answer = client(url).chat.completions.parse(
            model=MODEL,
            messages=MESSAGES,
            tools=TOOLS,
            tool_choice=forced,
            parallel_tool_calls=False,
            max_tokens=300,
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls or ()
        assert isinstance(call.function.parsed_arguments, CountShapes)


def check_a_streamed_call_whose_result_goes_back(url: str) -> None:
    messages = list(MESSAGES)
    with client(url).chat.completions.stream(
        model=MODEL,
        messages=messages,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
    ) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    deltas = [
        event.arguments_delta
        for event in events
        if event.type == "tool_calls.function.arguments.delta"
    ]
    (call,) = message.tool_calls or ()
    assert len(deltas) > 1
    assert "".join(deltas) == call.function.arguments
    CountShapes.model_validate(json.loads(call.function.arguments))
    messages += [
        message,
        {"role": "tool", "tool_call_id": call.id, "content": '{"count": 1}'},
    ]
    answer = client(url).chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, tool_choice="none", max_tokens=8
    )
    assert answer.choices[0].message.content is not None


def check_a_response(url: str) -> None:
    response = client(url).responses.create(model=MODEL, input=ITEMS)
    assert response.output_text == ANSWER
    assert response.status == "completed"
    assert response.usage
    assert response.usage.total_tokens > response.usage.output_tokens
    text: Any = client(url).responses.create(
        model=MODEL,
        input="hello",
        instructions="Be brief.",
        max_output_tokens=3,
        store=True,
        metadata={"a": "b"},
    )
    assert text.incomplete_details.reason == "max_output_tokens"
    assert text.metadata == {"a": "b"}


def check_an_async_response(url: str) -> None:
    async def ask() -> Any:
        responses = async_client(url).responses
        return await asyncio.gather(
            *(responses.create(model=MODEL, input=ITEMS) for _ in range(3))
        )

    assert [each.output_text for each in asyncio.run(ask())] == [ANSWER] * 3


def check_responses_over_two_turns(url: str) -> None:
    responses = client(url).responses
    for dumped in (False, True):
        items = list(ITEMS)
        for _ in range(2):
            with responses.stream(model=MODEL, input=items) as stream:
                kinds = [event.type for event in stream]
                response = stream.get_final_response()
            assert kinds[0] == "response.created"
            assert kinds[-1] == "response.completed"
            assert kinds.count("response.output_text.delta") > 1
            items += [item.model_dump() if dumped else item for item in response.output]
            items.append({"role": "user", "content": QUESTION})
        first = items[1] if dumped else items[1].model_dump()
        assert first["content"][0]["text"] == ANSWER


def check_a_response_in_a_stream_without_the_helper(url: str) -> None:
    events: list[Any] = list(
        client(url).responses.create(
            model=MODEL,
            input=ITEMS,
            stream=True,
            include=["message.output_text.logprobs"],
            top_logprobs=2,
        )
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == ANSWER
    assert all(event.logprobs for event in deltas)
    assert events[-1].response.output_text == ANSWER


def check_a_response_parsed_into_a_pydantic_model(url: str) -> None:
    responses = client(url).responses
    options: Any = {"text_format": Picture, "max_output_tokens": 300}
    response = responses.parse(model=MODEL, input=ITEMS, **options)
    assert isinstance(response.output_parsed, Picture)
    with responses.stream(model=MODEL, input=ITEMS, **options) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Picture)
    (done,) = [each for each in events if each.type == "response.output_text.done"]
    assert isinstance(done.parsed, Picture)


def check_a_call_of_a_response_whose_result_goes_back(url: str) -> None:
    responses = client(url).responses
    tools: Any = [{"type": "function", **TOOLS[0]["function"]}]
    items = list(ITEMS)
    choice: Any = {"type": "function", "name": "count_shapes"}
    with responses.stream(
        model=MODEL,
        input=items,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=False,
        max_output_tokens=300,
    ) as stream:
        events = list(stream)
        response = stream.get_final_response()
    (call,) = response.output
    assert call.type == "function_call"
    CountShapes.model_validate_json(call.arguments)
    deltas = [
        event
        for event in events
        if event.type == "response.function_call_arguments.delta"
    ]
    assert deltas[-1].snapshot == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "1"}
    items += [call, result]
    answer = responses.create(
        model=MODEL, input=items, tools=tools, tool_choice="none", max_output_tokens=8
    )
    assert answer.output_text


def response_error(kind: Any, url: str, **request: Any) -> Any:
    """The error of a response."""
    try:
        client(url).responses.create(**{"model": MODEL, "input": "Hi", **request})
    except kind as error:
        return error
    raise AssertionError("the request was answered")


def check_errors_of_responses(url: str) -> None:
    error = response_error(BadRequestError, url, previous_response_id="resp_1")
    assert error.param == "previous_response_id"
    error = response_error(BadRequestError, url, background=True)
    assert error.param == "background"
    error = response_error(NotFoundError, url, model="gpt-4o")
    assert error.code == "model_not_found"


def check_completions(url: str) -> None:
    completions = client(url).completions
    answer = completions.create(model=MODEL, prompt=["hello", "A red"], logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs
        assert choice.logprobs.tokens
        assert len(choice.logprobs.text_offset or ()) == len(choice.logprobs.tokens)
    gathered = ["", ""]
    for chunk in completions.create(
        model=MODEL, prompt=["hello", "A red"], stream=True
    ):
        for piece in chunk.choices:
            gathered[piece.index] += piece.text
    assert gathered == [choice.text for choice in answer.choices]


def check_bookkeeping_and_nulls(url: str) -> None:
    answer = client(url).chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        user="somebody",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        logit_bias=None,
        stop=None,
        seed=None,
    )
    assert answer.choices[0].message.content == ANSWER


def check_models(url: str) -> None:
    models = client(url).models
    (model,) = models.list()
    assert models.retrieve(MODEL).id == model.id


def error_of(kind: Any, url: str, **request: Any) -> Any:
    """The error of a chat."""
    try:
        client(url).chat.completions.create(messages=MESSAGES, **request)
    except kind as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    error = error_of(BadRequestError, url, model=MODEL, extra_body={"color": 1})
    assert error.param == "color"
    assert error.code == "unknown_parameter"
    assert "color" in error.message
    error = error_of(NotFoundError, url, model="gpt-4o")
    assert error.code == "model_not_found"


def check_a_closed_stream_frees_the_server(url: str) -> None:
    completions = client(url).chat.completions
    for _ in range(6):
        stream = completions.create(
            model=MODEL, messages=MESSAGES, stream=True, temperature=2
        )
        next(iter(stream))
        stream.close()
    assert completions.create(model=MODEL, messages=MESSAGES).choices
