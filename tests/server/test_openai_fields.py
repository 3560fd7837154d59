"""Fields of OpenAI's API on the demo model, each with what it does to an answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageDraw

from mllama.server.dialects.openai.answers import ChatCompletion, Completion
from tests.reference.cases import data_url

from .conftest import Server

META = "meta-llama/Llama-3.2-11B-Vision-Instruct"


def picture() -> str:
    """A red circle at the left and a blue square at the right."""
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 60, 90, 140), fill="red")
    draw.rectangle((110, 60, 190, 140), fill="blue")
    return data_url(image)


ANSWER = "A red circle left of a blue square."


def question(url: Any = None) -> list[Any]:
    part = {"type": "image_url", "image_url": url or {"url": picture()}}
    text = {"type": "text", "text": "What is in this picture?"}
    return [{"role": "user", "content": [part, text]}]


def chat(server: Server, **fields: Any) -> Any:
    body = {"model": "mllama-demo", "messages": question(), **fields}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=600)
    answer = response.json()
    if response.status_code == 200:
        ChatCompletion.model_validate(answer, strict=True)
    return answer


def complete(server: Server, **fields: Any) -> Any:
    body = {"model": "mllama-demo", "prompt": "hello", **fields}
    response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=600)
    assert response.status_code == 200, response.text
    answer = response.json()
    Completion.model_validate(answer, strict=True)
    return answer


def text_of(answer: Any) -> str:
    content: str = answer["choices"][0]["message"]["content"]
    return content


@pytest.mark.parametrize(
    "messages",
    [
        question(),
        question(picture()),
        question(picture().partition(",")[2]),
        question({"url": picture(), "detail": "low"}),
        [
            {
                "role": "user",
                "content": "What is in this picture?",
                "images": [picture().partition(",")[2]],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "text",
                        "text": "What is in this picture?",
                        "image_url": {"url": picture()},
                    }
                ],
            }
        ],
    ],
)
def test_a_picture_is_seen_in_every_form(server: Server, messages: Any) -> None:
    assert text_of(chat(server, messages=messages)) == ANSWER


@pytest.mark.parametrize(
    "name", [META, "llama3.2-vision", "ollama:llama3.2-vision:11b", ""]
)
def test_the_model_has_many_names(server: Server, name: str) -> None:
    assert text_of(chat(server, model=name)) == ANSWER


def test_empty_stop_strings_do_not_end_an_answer(server: Server) -> None:
    for stop in ("", [""], []):
        answer = chat(server, stop=stop)
        assert text_of(answer) == ANSWER
        assert answer["choices"][0]["finish_reason"] == "stop"
    assert text_of(chat(server, stop=["", " left"])) == "A red circle"


def test_several_choices_differ_and_the_first_is_that_of_one(server: Server) -> None:
    options = {"temperature": 2.0, "seed": 3, "max_tokens": 8}
    several = chat(server, n=3, **options)
    texts = [choice["message"]["content"] for choice in several["choices"]]
    assert len(set(texts)) > 1
    assert texts[0] == text_of(chat(server, **options))
    assert texts[2] == text_of(chat(server, **{**options, "seed": 5}))


def test_a_bias_bans_and_forces_tokens(server: Server) -> None:
    tokens = httpx.post(
        f"{server.url}/tokenize",
        json={"prompt": " red", "add_special_tokens": False},
    ).json()["tokens"]
    (red,) = tokens
    assert "red" not in text_of(chat(server, logit_bias={str(red): -100}))
    forced = chat(server, logit_bias={str(red): 100}, max_tokens=3)
    assert text_of(forced) == " red red red"


def test_a_stop_token_ends_an_answer(server: Server) -> None:
    (red,) = httpx.post(
        f"{server.url}/tokenize",
        json={"prompt": " red", "add_special_tokens": False},
    ).json()["tokens"]
    answer = chat(server, stop_token_ids=[red])
    assert text_of(answer).strip() == "A"
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_an_answer_goes_on_with_the_last_message(server: Server) -> None:
    messages = [*question(), {"role": "assistant", "content": "A red circle"}]
    answer = chat(server, messages=messages, continue_final_message=True)
    assert text_of(answer) == " left of a blue square."
    whole = chat(server, messages=messages, continue_final_message=True, echo=True)
    assert text_of(whole) == ANSWER
    error = chat(server, messages=messages)["error"]
    assert "continue_final_message" in error["message"]


def test_log_probabilities_count_from_zero(server: Server) -> None:
    for top in (0, 2, 20):
        answer = chat(server, logprobs=True, top_logprobs=top)
        entries = answer["choices"][0]["logprobs"]["content"]
        assert len(entries) == answer["usage"]["completion_tokens"]
        assert {len(entry["top_logprobs"]) for entry in entries} == {top}
        spoken = [entry for entry in entries if entry["token"][:2] != "<|"]
        joined = b"".join(bytes(entry["bytes"]) for entry in spoken)
        assert joined.decode() == ANSWER


def test_a_completion_has_sixteen_tokens_by_default(server: Server) -> None:
    answer = complete(server, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_completion_has_its_tokens_and_offsets(server: Server) -> None:
    answer = complete(server, max_tokens=3, logprobs=1, ignore_eos=True)
    (choice,) = answer["choices"]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == 3
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"].startswith(token, offset) or token.startswith("<|")
    assert all(len(top) in (1, 2) for top in logprobs["top_logprobs"])


def test_several_prompts_have_the_answers_of_each(server: Server) -> None:
    ids = httpx.post(f"{server.url}/tokenize", json={"prompt": "hello"}).json()
    alone = [
        complete(server, prompt=prompt)["choices"][0]["text"]
        for prompt in ("hello", "What is", "A red")
    ]
    answer = complete(server, prompt=["hello", "What is", "A red"])
    assert [choice["text"] for choice in answer["choices"]] == alone
    answer = complete(server, prompt=[ids["tokens"], ids["tokens"]])
    assert [choice["text"] for choice in answer["choices"]] == [alone[0]] * 2


def test_echo_repeats_the_prompt(server: Server) -> None:
    plain = complete(server, max_tokens=4)["choices"][0]["text"]
    assert complete(server, max_tokens=4, echo=True)["choices"][0]["text"] == (
        "hello" + plain
    )


def test_the_best_of_several_is_the_likeliest(server: Server) -> None:
    options = {"temperature": 2.0, "seed": 1, "logprobs": 0, "max_tokens": 6}
    answers = complete(server, n=4, **options)["choices"]
    means = [
        sum(each["logprobs"]["token_logprobs"]) / len(each["logprobs"]["tokens"])
        for each in answers
    ]
    (best,) = complete(server, n=1, best_of=4, **options)["choices"]
    assert best["text"] == answers[means.index(max(means))]["text"]


def test_an_answer_of_the_sdk_is_a_valid_next_turn(client: openai.OpenAI) -> None:
    messages: list[Any] = question()
    for _ in range(2):
        answer = client.chat.completions.create(model=META, messages=messages)
        messages += [answer.choices[0].message, {"role": "user", "content": "And?"}]
    assert answer.choices[0].message.content


def test_the_sdks_stream_helper_gathers_the_whole_answer(
    client: openai.OpenAI,
) -> None:
    whole = client.chat.completions.create(model=META, messages=question())
    with client.chat.completions.stream(model=META, messages=question()) as stream:
        gathered = stream.get_final_completion()
    assert gathered.choices[0].message.role == "assistant"
    assert gathered.choices[0].message.content == whole.choices[0].message.content
    messages: list[Any] = [
        *question(),
        gathered.choices[0].message,
        {"role": "user", "content": "And?"},
    ]
    assert client.chat.completions.create(model=META, messages=messages).choices


def test_the_model_is_found_under_a_name_with_a_slash(client: openai.OpenAI) -> None:
    assert client.models.retrieve(META).id == "mllama-demo"


@pytest.mark.parametrize(
    "broken",
    [
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": 1'
        + b"0" * 30
        + b"}",
        b'{"messages": [{"role": "user", "content": "x"}], "metadata": '
        + b"[" * 2000
        + b"]" * 2000
        + b"}",
        json.dumps({"messages": question("http://\u0000.example/")}).encode(),
        json.dumps({"messages": question("http://[::1")}).encode(),
        json.dumps({"messages": question("nothing:at all")}).encode(),
    ],
)
def test_hostile_bodies_are_bad_requests(server: Server, broken: bytes) -> None:
    url = f"{server.url}/v1/chat/completions"
    response = httpx.post(url, content=broken, timeout=600)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]
