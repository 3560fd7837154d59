"""Answers to conversations, whole and in lines."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from mllama.errors import EngineError, EngineOverloadedError
from tests.server.dialects.fake_engine import FakeEngine

from .conftest import ONE, TWO, USER, Api, answer_of, error_of, lines_of


def test_an_answer_has_the_text_and_its_figures(api: Api) -> None:
    answer = answer_of(api.chat())
    assert answer["model"] == "served"
    assert answer["message"] == {"role": "assistant", "content": "Hello!"}
    assert answer["done_reason"] == "stop"
    assert answer["created_at"].endswith("Z")
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (3, 7)


def test_an_answer_is_a_stream_unless_told_otherwise(api: Api) -> None:
    for options in ({}, {"stream": None}, {"stream": True}):
        body = {"model": "served", "messages": [USER], **options}
        *pieces, end = lines_of(api.post("/api/chat", body))
        assert [piece["message"]["content"] for piece in pieces] == list("Hello!")
        assert end["message"] == {"role": "assistant", "content": ""}
        assert (end["done_reason"], end["eval_count"]) == ("stop", 7)


def test_a_body_needs_no_content_type(api: Api) -> None:
    content = b'{"model": "served", "messages": [{"role": "user", "content": "Hi"}]}'
    for headers in ({}, {"content-type": "text/plain"}):
        response = api.request("POST", "/api/chat", content=content, headers=headers)
        assert len(lines_of(response)) == 7


def test_the_model_is_named_as_the_request_names_it(api: Api) -> None:
    for name in ("served:latest", "llama3.2-vision", "llama3.2-vision:11b"):
        assert answer_of(api.chat(model=name))["model"] == name


def test_another_model_is_not_found(api: Api) -> None:
    for stream in (True, False):
        response = api.chat(model="llava", stream=stream)
        assert error_of(response, 404) == "model 'llava' not found"
    assert error_of(api.chat(model="")) == "model is required"
    assert "`model` is required" in error_of(api.post("/api/chat", {}))


def test_a_limit_ends_an_answer(api: Api) -> None:
    answer = answer_of(api.chat(options={"num_predict": 2}))
    assert (answer["message"]["content"], answer["done_reason"]) == ("He", "length")
    *_, end = lines_of(api.chat(options={"num_predict": 2}, stream=True))
    assert (end["done_reason"], end["eval_count"]) == ("length", 2)


def test_images_stand_before_their_messages_text(api: Api) -> None:
    messages = [
        {**USER, "images": [ONE]},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "And?", "images": [TWO, ONE]},
    ]
    answer_of(api.chat(messages=messages))
    image = {"type": "image"}
    assert [message["content"] for message in api.prompt.messages] == [
        [image, {"type": "text", "text": "Hi"}],
        "One.",
        [image, image, {"type": "text", "text": "And?"}],
    ]
    assert api.last.images == [b"one", b"two", b"one"]


def test_an_image_stands_where_its_message_marks_a_place(api: Api) -> None:
    image = {"type": "image"}
    cases: list[tuple[str, list[str], list[bytes], list[Any]]] = [
        ("a [img] b", [ONE], [b"one"], ["a ", image, " b"]),
        ("[img][img]", [ONE, TWO], [b"one", b"two"], [image, image]),
        ("[img] b", [ONE, TWO], [b"two", b"one"], [image, image, " b"]),
        ("[img] [img]", [ONE], [b"one"], [image, " [img]"]),
        ("", [ONE], [b"one"], [image]),
    ]
    for text, images, loaded, parts in cases:
        message = {"role": "user", "content": text, "images": images}
        answer_of(api.chat(messages=[message]))
        assert api.last.images == loaded
        assert api.prompt.messages[0]["content"] == [
            {"type": "text", "text": part} if isinstance(part, str) else part
            for part in parts
        ]
    answer_of(api.chat(messages=[{"role": "user", "content": "[img]"}]))
    assert api.prompt.messages[0]["content"] == "[img]"


def test_images_are_base64_or_urls(api: Api) -> None:
    for source in (ONE, f"data:image/png;base64,{ONE}", "http://pictures/one.png"):
        answer_of(api.chat(messages=[{**USER, "images": [source]}]))
        assert api.last.images == [b"one"]
    large = "A" * 100_000
    answer_of(api.chat(messages=[{**USER, "images": [large]}]))
    assert len(api.engine.images[-1]) == 75_000


def test_a_damaged_image_is_named(api: Api) -> None:
    message = {**USER, "images": [ONE, "YnJva2Vu"]}
    for stream in (True, False):
        response = api.chat(messages=[message], stream=stream)
        assert error_of(response) == "image 2: the image is broken"
    assert "at most 4" in error_of(api.chat(messages=[{**USER, "images": [ONE] * 5}]))


def test_a_system_message_stays_and_roles_may_be_in_capitals(api: Api) -> None:
    system = {"role": "System", "content": "Be brief."}
    answer_of(api.chat(messages=[system, USER]))
    assert [each["role"] for each in api.prompt.messages] == ["system", "user"]


def test_an_answer_goes_on_with_the_assistants_last_message(api: Api) -> None:
    begun = {"role": "assistant", "content": "A red"}
    answer_of(api.chat(messages=[USER, begun]))
    assert api.prompt.continue_final_message
    answer_of(api.chat(messages=[USER, begun, USER]))
    assert not api.prompt.continue_final_message


def test_an_answer_comes_back_accepted_as_the_next_turn(api: Api) -> None:
    message = answer_of(api.chat())["message"]
    full = {**message, "thinking": None, "images": None, "tool_calls": None}
    for turn in (message, full, {**message, "images": [], "thinking": ""}):
        answer_of(api.chat(messages=[USER, turn, USER]))
        assert api.prompt.messages[1] == {"role": "assistant", "content": "Hello!"}


def test_without_messages_the_model_is_loaded_or_not(api: Api) -> None:
    cases = [
        ({}, "load"),
        ({"keep_alive": "5m"}, "load"),
        ({"keep_alive": -1}, "load"),
        ({"keep_alive": 0}, "unload"),
        ({"keep_alive": "0"}, "unload"),
        ({"keep_alive": "0s"}, "unload"),
        ({"keep_alive": 0.0}, "unload"),
    ]
    for options, reason in cases:
        for messages in ([], None):
            answer = api.chat(messages=messages, stream=True, **options).json()
            assert answer["message"] == {"role": "assistant", "content": ""}
            assert (answer["done"], answer["done_reason"]) == (True, reason)
    assert not api.engine.requests
    # It stays loaded.
    assert answer_of(api.chat(keep_alive=0))["message"]["content"] == "Hello!"


def test_keep_alive_is_a_duration(api: Api) -> None:
    for value in ("5m", "1h30m", "-1s", "1.5h", 300, -1, "100ms"):
        answer_of(api.chat(keep_alive=value))
    for value in ("soon", "5 m", "m", True, [], "-"):
        assert "`keep_alive` must be a number" in error_of(api.chat(keep_alive=value))
    started = time.monotonic()
    for value in ("1" * 500_000, "1." * 200_000, "1h" * 200_000 + "x"):
        assert "`keep_alive` must be a number" in error_of(api.chat(keep_alive=value))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("top", [None, 0, 2])
def test_log_probabilities_come_with_their_tokens(api: Api, top: int | None) -> None:
    options = {"logprobs": True, "top_logprobs": top}
    whole = answer_of(api.chat(**options))["logprobs"]
    lines = lines_of(api.chat(**options, stream=True))
    assert whole == [entry for line in lines for entry in line.get("logprobs", ())]
    assert [entry["token"] for entry in whole] == list("Hello!")
    assert whole[0]["bytes"] == [72]
    assert [len(entry.get("top_logprobs", ())) for entry in whole] == [top or 0] * 6
    assert "logprobs" not in answer_of(api.chat())


def test_likeliest_tokens_need_log_probabilities(api: Api) -> None:
    assert "`top_logprobs` needs" in error_of(api.chat(top_logprobs=2))
    assert "at most 20" in error_of(api.chat(logprobs=True, top_logprobs=21))


def test_a_prompt_of_two_images_counts_their_tokens(api: Api) -> None:
    plain = answer_of(api.chat(messages=[{**USER, "content": "x"}]))
    assert plain["prompt_eval_count"] == 2


def test_an_error_before_the_answer_has_a_status() -> None:
    cases = [
        (EngineError("it failed"), 500),
        (EngineOverloadedError("too many requests are waiting"), 429),
        (KeyError("unforeseen"), 500),
    ]
    for raised, status in cases:
        api = Api()
        api.engine.error = raised
        for stream in (True, False):
            message = error_of(api.chat(stream=stream), status)
            assert "unforeseen" not in message


def test_an_error_within_a_stream_is_its_last_line() -> None:
    api = Api()
    api.engine.error_after = (3, EngineError("the model failed"))
    response = api.chat(stream=True)
    assert response.status_code == 200
    *pieces, last = response.text.splitlines()
    assert len(pieces) == 2
    assert last == '{"error":"the model failed (request id)"}'
    assert error_of(api.chat(), 500) == "the model failed (request id)"


def test_a_client_that_goes_away_cancels_its_answer() -> None:
    api = Api(FakeEngine("x" * 1000))
    waits = asyncio.Event()
    api.engine.wait = waits.wait

    async def leave() -> None:
        transport = httpx.ASGITransport(app=api.app())
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server"
        ) as client:
            body = {"model": "served", "messages": [USER]}
            task = asyncio.ensure_future(client.post("/api/chat", json=body))
            while not api.engine.running:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for _ in range(100):
                await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(leave(), 10))
    assert api.engine.running == 0
