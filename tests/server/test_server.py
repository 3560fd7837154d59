"""``mllama serve`` on the demo model, with the real ``openai`` client."""

from __future__ import annotations

import base64
import io
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from PIL import Image

from .conftest import Server, image_cache, running

PUBLISHED = "meta-llama/Llama-3.2-11B-Vision-Instruct"


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def image_question(url: str) -> list[Any]:
    """Returns a conversation with a system message and a question about an image."""
    return [
        {"role": "system", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in this image?"},
                {"type": "image_url", "image_url": {"url": url}},
            ],
        },
    ]


RED = data_url(Image.new("RGB", (60, 40), "red"))


def test_the_demo_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mllama-demo"]


def test_a_question_to_a_published_name_is_answered_alike_with_and_without_streaming(
    client: openai.OpenAI,
) -> None:
    answer = client.chat.completions.create(
        model=PUBLISHED, messages=image_question(RED), max_tokens=6
    )
    assert answer.model == "mllama-demo"
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    images = usage.prompt_tokens_details.image_tokens  # type: ignore[attr-defined]
    assert 0 < images < usage.prompt_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    stream = client.chat.completions.create(
        model="mllama-demo",
        messages=image_question(RED),
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == answer.choices[0].message.content
    assert chunks[-1].usage == usage


def test_a_stop_string_is_not_streamed(client: openai.OpenAI) -> None:
    def text(**options: Any) -> str:
        stream = client.chat.completions.create(
            model="mllama-demo",
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=12,
            stream=True,
            **options,
        )
        return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)

    whole = text()
    stop = whole[2:4]
    assert text(stop=[stop]) == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"n": 0}, 400),
        ({"logit_bias": {"769": 1}}, 400),
        ({"frequency_penalty": 2.5}, 400),
        ({"logprobs": True, "top_logprobs": 21}, 400),
        ({"tool_choice": "required", "tools": []}, 400),
        ({"model": "gpt-4o"}, 404),
        ({"messages": image_question("data:image/png;base64,aGVsbG8=")}, 400),
        ({"messages": image_question("http://127.0.0.1:9/x.png")}, 400),
        ({"messages": image_question(RED)[1:] * 33}, 400),
        ({"messages": [{"role": "user", "content": "a b c " * 4000}]}, 400),
    ],
)
def test_a_bad_request_is_rejected_and_the_server_keeps_running(
    client: openai.OpenAI, options: dict[str, Any], status: int
) -> None:
    good: dict[str, Any] = {"model": "mllama-demo", "messages": image_question(RED)}
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{**good, **options})
    assert caught.value.status_code == status
    assert caught.value.body["message"]  # type: ignore[index]
    assert client.chat.completions.create(**good, max_tokens=2).choices


def test_several_answers_encode_their_image_and_count_their_prompt_once(
    client: openai.OpenAI, server: Server
) -> None:
    messages = image_question(data_url(Image.new("RGB", (59, 41), "purple")))
    before = image_cache(server)
    answers = [
        client.chat.completions.create(
            model="mllama-demo",
            messages=messages,
            max_tokens=5,
            n=n,
            extra_body={"ignore_eos": True},
        )
        for n in (7, 1)
    ]
    after = image_cache(server)
    assert after["misses_total"] == before["misses_total"] + 1
    assert after["pinned"] == 0
    several, one = (answer.usage for answer in answers)
    assert several is not None
    assert one is not None
    assert [choice.index for choice in answers[0].choices] == list(range(7))
    assert several.prompt_tokens == one.prompt_tokens
    assert (several.completion_tokens, one.completion_tokens) == (35, 5)


def test_a_placeholder_that_is_typed_is_text(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "typed <|image|>"}]
    answer = client.chat.completions.create(
        model="mllama-demo", messages=messages, max_tokens=2
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    details = answer.usage.prompt_tokens_details
    assert details.image_tokens == 0  # type: ignore[attr-defined]


def test_a_repeated_request_hits_the_image_cache_and_the_prefix_cache(
    client: openai.OpenAI, server: Server
) -> None:
    picture = data_url(Image.new("RGB", (61, 43), "green"))
    messages = image_question(picture)
    messages[0]["content"] *= 40  # the prefix cache has pages of 128 tokens

    before = image_cache(server)
    cached = []
    for _ in range(2):
        answer = client.chat.completions.create(
            model="mllama-demo", messages=messages, max_tokens=2
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    after = image_cache(server)
    assert cached[0] == 0
    assert cached[1]
    assert cached[1] % 128 == 0
    assert after["misses_total"] == before["misses_total"] + 1
    assert after["hits_total"] == before["hits_total"] + 1
    assert after["pinned"] == 0
    assert 0 < after["used_bytes"] <= after["bytes"]


def test_penalties_and_min_tokens_need_no_option(client: openai.OpenAI) -> None:
    def answer(**options: Any) -> Any:
        done = client.chat.completions.create(
            model="mllama-demo", messages=image_question(RED), max_tokens=40, **options
        )
        assert done.usage is not None
        return done.choices[0].message.content, done.usage.completion_tokens

    assert answer()[1] < 35
    text, length = answer(extra_body={"min_tokens": 35})
    assert length >= 35
    penalized = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
    assert answer(**penalized, extra_body={"min_tokens": 35})[0] != text
    repeating = {"min_tokens": 35, "repetition_penalty": 5.0}
    assert answer(extra_body=repeating)[0] != text


def test_a_seed_gives_the_same_answer_alone_and_among_others(
    client: openai.OpenAI,
) -> None:
    def answer(seed: int) -> Any:
        return (
            client.chat.completions.create(
                model="mllama-demo",
                messages=image_question(RED),
                max_tokens=30,
                temperature=1.5,
                seed=seed,
            )
            .choices[0]
            .message.content
        )

    alone = [answer(seed) for seed in range(1, 5)]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(1, 5))) == alone


def test_a_request_may_ask_for_twenty_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="mllama-demo",
        messages=image_question(RED),
        max_tokens=3,
        logprobs=True,
        top_logprobs=20,
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert len(found.content) == 3
    for token in found.content:
        values = [top.logprob for top in token.top_logprobs]
        assert len(values) == 20
        assert values == sorted(values, reverse=True)
        assert token.logprob == values[0]
        assert sum(map(math.exp, values)) <= 1.0001


def test_requests_of_disconnected_clients_free_the_server(
    client: openai.OpenAI,
) -> None:
    for _ in range(10):
        stream = client.chat.completions.create(
            model="mllama-demo",
            messages=image_question(RED),
            stream=True,
            temperature=2.0,
        )
        next(iter(stream))
        stream.close()
    assert client.chat.completions.create(
        model="mllama-demo", messages=image_question(RED), max_tokens=2
    ).choices


def test_sigterm_ends_every_process_when_answers_are_complete(tmp_path: Path) -> None:
    # Other files share the server of the fixture.
    options = ("--shutdown-timeout", "6")
    with running(tmp_path / "log", *options) as server, ThreadPoolExecutor(9) as pool:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children

        begun = threading.Semaphore(0)

        def ask(client: openai.OpenAI, max_tokens: int) -> str:
            last = None
            try:
                for chunk in client.chat.completions.create(
                    model="mllama-demo",
                    messages=[{"role": "user", "content": "Hi"}],
                    max_tokens=max_tokens,
                    stream=True,
                    extra_body={"ignore_eos": True},
                ):
                    if last is None:
                        begun.release()
                    last = chunk.choices[0].finish_reason
            except openai.APIError as error:
                return str(error)
            return str(last)

        clients = [server.client() for _ in range(8)]
        # Four run, and the others wait.
        long = [pool.submit(ask, client, 8000) for client in clients[:3]]
        short = pool.submit(ask, clients[3], 40)
        assert all(begun.acquire(timeout=60) for _ in range(4))
        waiting = [pool.submit(ask, client, 8000) for client in clients[4:]]
        time.sleep(0.2)
        server.process.terminate()
        assert short.result(120) == "length"
        answer = httpx.get(f"{server.url}/v1/models")
        assert answer.status_code == 503
        assert answer.headers["connection"] == "close"
        errors = [each.result(120) for each in (*long, *waiting)]
        # One of those that waited has begun if the short answer had been complete.
        assert sum("before the answer was complete" in each for each in errors) in (
            3,
            4,
        )
        assert sum("shutting down" in each for each in errors) in (3, 4)
        assert server.process.wait(30) == 0
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
        assert "Traceback" not in server.log.read_text()
