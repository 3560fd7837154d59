"""LlamaIndex's OpenAILike: blocks of messages, streams of messages, completions."""

import asyncio
from typing import Any

import openai
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from picture import (
    ANSWER,
    GREETING,
    HELLO,
    QUESTION,
    SECOND_ANSWER,
    SECOND_QUESTION,
    data_url,
    png,
)

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"


def client(url: str, **options: Any) -> OpenAILike:
    defaults = {
        "model": MODEL,
        "is_chat_model": True,
        "max_retries": 0,
        "temperature": 0,
    }
    return OpenAILike(**{**defaults, **options}, api_base=f"{url}/v1", api_key="none")


def question(**picture: Any) -> ChatMessage:
    """A question about a picture, which is bytes unless other arguments are given."""
    shown = ImageBlock(**(picture or {"image": png()}))
    return ChatMessage(role="user", blocks=[TextBlock(text=QUESTION), shown])


def check_a_text(url: str) -> None:
    answer = client(url).chat([ChatMessage(HELLO)])
    assert answer.message.content == GREETING
    assert client(url).complete(HELLO).text == GREETING


def check_a_picture(url: str) -> None:
    pictures: list[dict[str, Any]] = [
        {"image": png()},
        {"image": png(), "detail": "low"},
        {"url": data_url()},
    ]
    for picture in pictures:
        system = ChatMessage(role="system", content="Be brief.")
        answer = client(url).chat([system, question(**picture)])
        assert answer.message.content == ANSWER
        usage = answer.raw.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def check_a_stream_over_two_turns(url: str) -> None:
    messages = [question()]
    for expected in (ANSWER, SECOND_ANSWER):
        answers = list(client(url).stream_chat(messages))
        assert len(answers) > 2
        assert answers[-1].message.content == expected
        assert "".join(answer.delta or "" for answer in answers) == expected
        messages += [answers[-1].message, ChatMessage(SECOND_QUESTION)]


def check_an_async_stream(url: str) -> None:
    async def gather() -> Any:
        stream = await client(url).astream_chat([question()])
        return [answer async for answer in stream]

    assert asyncio.run(gather())[-1].message.content == ANSWER


def check_async_chats(url: str) -> None:
    async def ask() -> Any:
        model = client(url)
        return await asyncio.gather(
            model.achat([ChatMessage(HELLO)]), model.achat([question()])
        )

    texts = [answer.message.content for answer in asyncio.run(ask())]
    assert texts == [GREETING, ANSWER]


def check_an_answer_comes_back_as_the_next_turn(url: str) -> None:
    first = client(url).chat([question()]).message
    second = client(url).chat([question(), first, ChatMessage(SECOND_QUESTION)])
    assert second.message.content == SECOND_ANSWER


def check_a_stop_string_and_a_limit(url: str) -> None:
    answer = client(url).chat([question()], stop=[" left"])
    assert answer.message.content == ANSWER.partition(" left")[0]
    answer = client(url, max_tokens=2).chat([question()])
    assert answer.raw.choices[0].finish_reason == "length"


def check_several_choices(url: str) -> None:
    model = client(url, temperature=2, max_tokens=8)
    choices = model.chat([question()], n=3, seed=3).raw.choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert len({choice.message.content for choice in choices}) > 1


def check_log_probabilities(url: str) -> None:
    answer = client(url, logprobs=True, top_logprobs=2).chat([question()])
    assert answer.logprobs
    assert len(answer.logprobs) == answer.raw.usage.completion_tokens
    assert all(len(entry) == 2 for entry in answer.logprobs)


def check_text_completions(url: str) -> None:
    model = client(url, is_chat_model=False, max_tokens=8)
    answer = model.complete("A red").text
    assert answer
    assert list(model.stream_complete("A red"))[-1].text == answer
    assert asyncio.run(model.acomplete("A red")).text == answer


def count_shapes(color: str) -> int:
    """Counts shapes."""
    return len(color)


def check_tools(url: str) -> None:
    model = client(url, is_function_calling_model=True, max_tokens=8)
    plain = model.chat([ChatMessage(HELLO)]).raw.usage.prompt_tokens
    tools = [FunctionTool.from_defaults(count_shapes)]
    call = ToolCallBlock(
        tool_call_id="a", tool_name="count_shapes", tool_kwargs={"color": "red"}
    )
    called = [
        ChatMessage(HELLO),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage("3", role="tool", additional_kwargs={"tool_call_id": "a"}),
    ]
    for parallel in (False, True):
        for messages in ([ChatMessage(HELLO)], called):
            answer = model.chat_with_tools(
                tools, chat_history=messages, allow_parallel_tool_calls=parallel
            )
            assert answer.raw.usage.prompt_tokens > plain


def error_of(kind: Any, model: OpenAILike) -> Any:
    """The error of a chat."""
    try:
        model.chat([ChatMessage(HELLO)])
    except kind as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    error = error_of(openai.NotFoundError, client(url, model="gpt-4o"))
    assert error.code == "model_not_found"
    model = client(url, additional_kwargs={"extra_body": {"color": 1}})
    assert error_of(openai.BadRequestError, model).param == "color"
