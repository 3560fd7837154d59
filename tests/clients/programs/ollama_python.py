"""Ollama's library for Python: chats, prompts, formats, tools, models, its errors."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import ollama
from picture import (
    ANSWER,
    GREETING,
    HELLO,
    QUESTION,
    SECOND_ANSWER,
    SECOND_QUESTION,
    base64_png,
    png,
)
from pydantic import BaseModel

MODEL = "llama3.2-vision"
GREEDY = {"temperature": 0}


def question(image: Any = None) -> Any:
    return {"role": "user", "content": QUESTION, "images": [image or png()]}


def chat(url: str, *messages: Any, **options: Any) -> Any:
    asked = {"model": MODEL, "options": GREEDY, **options}
    return ollama.Client(host=url).chat(messages=messages or [question()], **asked)


def generate(url: str, prompt: str = QUESTION, **options: Any) -> Any:
    asked = {"model": MODEL, "options": GREEDY, **options}
    return ollama.Client(host=url).generate(prompt=prompt, **asked)


def check_a_text(url: str) -> None:
    answer = chat(url, {"role": "user", "content": HELLO})
    assert answer.message.content == answer["message"]["content"] == GREETING
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", MODEL)
    assert generate(url, HELLO).response == GREETING


def check_a_picture_of_every_kind(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        path.write_bytes(png())
        for image in (png(), base64_png(), str(path), path):
            assert chat(url, question(image)).message.content == ANSWER
        assert generate(url, images=[str(path)]).response == ANSWER


def check_figures(url: str) -> None:
    answer = chat(url)
    assert answer.prompt_eval_count > answer.eval_count > 1
    durations = (answer.load_duration, answer.prompt_eval_duration)
    assert 0 < sum(durations) + answer.eval_duration <= answer.total_duration * 1.01


def check_streams(url: str) -> None:
    *pieces, end = chat(url, stream=True)
    assert "".join(piece.message.content for piece in pieces) == ANSWER
    assert len(pieces) > 1
    assert (end.done, end.message.content) == (True, "")
    assert end.eval_count > 1
    *pieces, end = generate(url, images=[png()], stream=True)
    assert "".join(piece.response for piece in pieces) == ANSWER
    assert end.done_reason == "stop"


def check_async_clients(url: str) -> None:
    async def ask() -> Any:
        client = ollama.AsyncClient(host=url)
        options = {"model": MODEL, "messages": [question()], "options": GREEDY}
        stream = await client.chat(**options, stream=True)
        pieces = [piece.message.content async for piece in stream]
        whole = await asyncio.gather(*(client.chat(**options) for _ in range(2)))
        return ["".join(pieces), *(answer.message.content for answer in whole)]

    assert asyncio.run(ask()) == [ANSWER] * 3


def check_an_answer_comes_back_as_the_next_turn(url: str) -> None:
    first = chat(url).message
    second = {"role": "user", "content": SECOND_QUESTION}
    assert chat(url, question(), first, second).message.content == SECOND_ANSWER


def check_options(url: str) -> None:
    options = ollama.Options(
        temperature=0, num_predict=2, num_ctx=2048, num_gpu=0, mirostat=0, seed=1
    )
    answer = chat(url, options=options)
    assert (answer.done_reason, answer.eval_count) == ("length", 2)
    answer = chat(url, options={**GREEDY, "stop": [" left"]}, keep_alive="5m")
    assert answer.message.content == ANSWER.partition(" left")[0]


class Shape(BaseModel):
    kind: Literal["circle", "square", "star"]
    count: int


def check_formats(url: str) -> None:
    answer = chat(url, format=Shape.model_json_schema())
    Shape.model_validate_json(answer.message.content)
    answer = generate(url, HELLO, format="json", options={"num_predict": 4})
    assert answer.response.startswith("{")


def count_shapes(color: str) -> int:
    """Counts shapes.

    Args:
        color: Their color.
    """
    return len(color)


def check_tools(url: str) -> None:
    options = {"tools": [count_shapes], "options": {**GREEDY, "num_predict": 4}}
    hello = {"role": "user", "content": HELLO}
    plain = chat(url, hello).prompt_eval_count
    assert chat(url, hello, **options).prompt_eval_count > plain
    call = ollama.Message.ToolCall(
        function=ollama.Message.ToolCall.Function(
            name="count_shapes", arguments={"color": "red"}
        )
    )
    asked = ollama.Message(role="assistant", content="", tool_calls=[call])
    result = {"role": "tool", "content": "1", "tool_name": "count_shapes"}
    assert chat(url, hello, asked, result, **options).done


def check_log_probabilities(url: str) -> None:
    answer = chat(url, logprobs=True, top_logprobs=2)
    assert len(answer.logprobs) == answer.eval_count
    assert all(len(entry.top_logprobs) == 2 for entry in answer.logprobs)


def check_models(url: str) -> None:
    client = ollama.Client(host=url)
    (model,) = client.list().models
    assert model.modified_at.year > 2000
    assert model.size > 0
    (loaded,) = client.ps().models
    assert (loaded.name, loaded.digest) == (model.model, model.digest)
    assert loaded.expires_at > model.modified_at
    shown = client.show(model.model)
    assert shown.details.family == "mllama"
    assert shown.modelinfo["general.architecture"] == "mllama"
    assert set(shown.capabilities) == {"completion", "vision", "tools"}
    assert client.chat(model=model.model, messages=[]).done_reason == "load"
    assert client.generate(model=model.model, keep_alive=0).done_reason == "unload"


def error_of(call: Any) -> ollama.ResponseError:
    """The error of a call."""
    try:
        call()
    except ollama.ResponseError as error:
        return error
    raise AssertionError("the request was answered")


def check_errors(url: str) -> None:
    client = ollama.Client(host=url)
    for call in (
        lambda: chat(url, model="llava"),
        lambda: list(chat(url, model="llava", stream=True)),
    ):
        error = error_of(call)
        assert (error.status_code, error.error) == (404, "model 'llava' not found")
    error = error_of(lambda: chat(url, options={"mirostat": 2}))
    assert "`options.mirostat`" in error.error
    for call in (
        lambda: client.pull("llava"),
        lambda: list(client.pull("llava", stream=True)),
        lambda: client.embed(model=MODEL, input="Hi"),
        lambda: client.delete(MODEL),
        lambda: client.copy(MODEL, "other"),
        lambda: client.create(model="other", from_=MODEL),
    ):
        error = error_of(call)
        assert error.status_code == 400
        assert "is not possible: " in error.error, json.dumps(error.error)
