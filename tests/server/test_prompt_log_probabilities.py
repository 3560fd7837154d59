"""Prompts are scored over HTTP as their tokens would be as answers."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from PIL import Image

from mllama.demo_model import MODEL_NAME, PICTURES
from tests.reference.cases import data_url
from tests.server.conftest import Server

PROMPT = "A red star left of a blue circle."
TOLERANCE = 2e-3
"""With quantized weights, a chunk of a prompt and a single token are rounded
differently."""


def complete(client: openai.OpenAI, prompt: Any, **fields: Any) -> Any:
    extra = {name: fields.pop(name) for name in ("prompt_logprobs",) if name in fields}
    return client.completions.create(
        model=MODEL_NAME,
        prompt=prompt,
        temperature=0,
        **{"max_tokens": 1, **fields},
        extra_body=extra,
    )


def tokens_of(client: openai.OpenAI, prompt: str) -> list[int]:
    answer = client.post(
        str(client.base_url).replace("/v1/", "/tokenize"),
        body={"prompt": prompt},
        cast_to=object,
    )
    assert isinstance(answer, dict)
    tokens: list[int] = answer["tokens"]
    return tokens


def test_an_echoed_token_has_the_log_probability_of_an_answer(
    client: openai.OpenAI,
) -> None:
    """Each token of the prompt is compared with the one that follows its beginning."""
    tokens = tokens_of(client, PROMPT)
    (choice,) = complete(client, tokens, echo=True, logprobs=1).choices
    echoed = choice.logprobs
    assert len(echoed.token_logprobs) == len(tokens) + 1
    assert echoed.token_logprobs[0] is None
    found = 0
    for end in range(1, len(tokens) + 1):
        (after,) = complete(client, tokens[:end], logprobs=20).choices
        (top,) = after.logprobs.top_logprobs
        token, value = echoed.tokens[end], echoed.token_logprobs[end]
        assert max(echoed.top_logprobs[end].values()) == pytest.approx(
            max(top.values()), abs=TOLERANCE
        )
        if token in top:
            found += 1
            assert value == pytest.approx(top[token], abs=TOLERANCE)
        else:
            assert value <= min(top.values()) + TOLERANCE
    assert found > len(tokens) // 2


def test_zero_likeliest_tokens_is_a_count(client: openai.OpenAI) -> None:
    one = complete(client, PROMPT, echo=True, logprobs=1).choices[0].logprobs
    none = complete(client, PROMPT, echo=True, logprobs=0).choices[0].logprobs
    assert none.tokens == one.tokens
    assert none.token_logprobs == pytest.approx(one.token_logprobs, abs=TOLERANCE)
    answer = complete(client, PROMPT, logprobs=0).choices[0].logprobs
    assert len(answer.token_logprobs) == 1


def test_an_empty_answer_scores_the_prompt_alone(client: openai.OpenAI) -> None:
    tokens = tokens_of(client, PROMPT)
    answer = complete(client, tokens, echo=True, logprobs=2, max_tokens=0)
    (choice,) = answer.choices
    assert len(choice.logprobs.token_logprobs) == len(tokens)
    assert answer.usage.completion_tokens == 0
    (same,) = complete(client, tokens, prompt_logprobs=2).choices
    entries = same.prompt_logprobs
    assert entries[0] is None
    values = [
        entry[str(token)]["logprob"]
        for token, entry in zip(tokens[1:], entries[1:], strict=True)
    ]
    expected = choice.logprobs.token_logprobs[1:]
    assert values == pytest.approx(expected, abs=TOLERANCE)


def test_an_image_has_no_log_probability(client: openai.OpenAI) -> None:
    picture = Image.open(PICTURES[0].path)
    answer: Any = client.chat.completions.create(
        model=MODEL_NAME,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": data_url(picture)}},
                    {"type": "text", "text": PICTURES[0].questions[0].text},
                ],
            }
        ],
        max_tokens=2,
        extra_body={"prompt_logprobs": 1},
    )
    entries = answer.prompt_logprobs
    assert sum(entry is None for entry in entries) == 2  # The first token, the image.
    for entry in filter(None, entries):
        assert 1 <= len(entry) <= 2
        assert all(value["logprob"] <= 0 for value in entry.values())


def test_requests_of_all_kinds_at_once_get_the_same(
    client: openai.OpenAI, server: Server
) -> None:
    """And the worker lives on."""

    def scored(number: int) -> list[float]:
        prompt = f"{PROMPT} {PROMPT} Number {number}."
        (choice,) = complete(client, prompt, echo=True, logprobs=1).choices
        values: list[float] = choice.logprobs.token_logprobs
        return values[1:]

    def answered(number: int) -> str:
        (choice,) = complete(client, f"Number {number}.", max_tokens=20).choices
        text: str = choice.text
        return text

    alone = [scored(n) for n in range(4)], [answered(n) for n in range(4)]
    with ThreadPoolExecutor(8) as pool:
        scores = [pool.submit(scored, n) for n in range(4)]
        answers = [pool.submit(answered, n) for n in range(4)]
        together = [s.result() for s in scores], [a.result() for a in answers]
    for mine, other in zip(together[0], alone[0], strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
        assert all(math.isfinite(value) for value in mine)
    assert together[1] == alone[1]
    assert server.process.poll() is None
