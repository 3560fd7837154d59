"""Several answers to one prompt, raw prompts, and what comes with the tokens."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from mllama import LLM
from mllama.errors import MllamaError
from tests.conftest import BATCH

pytestmark = pytest.mark.compiles

QUESTION = "What is in the picture?"
KV_BLOCK = 128
"""Tokens of a block of the KV cache."""


@pytest.fixture
def contexts(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The contexts that are submitted to the scheduler, in order."""
    submitted: list[Any] = []
    put = llm._engine._running.incoming.put

    def record(context: Any) -> None:
        submitted.append(context)
        put(context)

    monkeypatch.setattr(llm._engine._running.incoming, "put", record)
    return submitted


@pytest.mark.parametrize("n", [2, BATCH, 3 * BATCH])
def test_a_prompt_and_its_images_are_computed_once_for_all_answers(
    llm: LLM, contexts: list[Any], n: int
) -> None:
    pictures = [Image.new("RGB", (80, 60), (n, shade, 9)) for shade in (50, 200)]
    misses = llm.image_cache.misses
    output = llm.generate(
        f"{n} answers. {QUESTION} " * 30, pictures, n=n, max_new_tokens=5
    )
    assert len(output.choices) == len(contexts) == n
    assert llm.image_cache.misses - misses == 2
    whole = (len(output.prompt_token_ids) - 1) // KV_BLOCK * KV_BLOCK
    assert whole > KV_BLOCK
    assert output.cached_tokens == 0
    assert [context.cached_prefix_length for context in contexts[1:]] == [whole] * (
        n - 1
    )
    assert llm.image_cache.pinned == 0
    first, *others = (
        [image.pixel_values for image in context.images] for context in contexts
    )
    assert len(first) == 2
    for images in others:
        assert all(a is b for a, b in zip(images, first, strict=True))


def test_each_answer_is_that_of_its_own_seed(llm: LLM) -> None:
    settings: dict[str, Any] = {"temperature": 2.0, "max_new_tokens": 10}
    output = llm.generate(QUESTION, n=5, seed=40, **settings)
    texts = [choice.text for choice in output.choices]
    assert texts == [
        llm.generate(QUESTION, seed=40 + i, **settings).text for i in range(5)
    ]
    assert len(set(texts)) > 1
    assert output.completion_tokens == sum(
        len(choice.token_ids) for choice in output.choices
    )
    assert output.text == texts[0]
    assert output.token_ids == output.choices[0].token_ids


def test_streamed_answers_are_those_of_the_output(llm: LLM) -> None:
    stream = llm.generate(
        QUESTION, n=3, seed=1, temperature=2.0, max_new_tokens=9, stream=True
    )
    texts = ["", "", ""]
    for chunk in stream:
        texts[chunk.choice] += chunk.text
    assert [choice.text for choice in stream.output.choices] == texts


def test_one_answer_may_end_before_the_others(llm: LLM) -> None:
    """Even before they have begun."""
    free = llm.generate(QUESTION, n=3, seed=1, temperature=2.0, max_new_tokens=9)
    stop = free.choices[0].text[:2]
    output = llm.generate(
        QUESTION, n=3, seed=1, temperature=2.0, max_new_tokens=9, stop=stop
    )
    assert output.choices[0].text == ""
    assert output.choices[0].stop == stop
    for choice, other in zip(output.choices, free.choices, strict=True):
        assert choice.text == other.text.split(stop)[0]


def test_abandoned_answers_leave_nothing_behind(llm: LLM) -> None:
    stream = llm.generate(
        QUESTION, n=2 * BATCH, temperature=2.0, ignore_eos=True, stream=True
    )
    for _ in range(BATCH):
        next(stream)
    stream.close()
    assert not llm._engine._running
    assert llm.generate(QUESTION, max_new_tokens=3).completion_tokens > 0
    assert llm.image_cache.pinned == 0


def test_tokens_of_a_prompt_give_the_answer_of_its_messages(
    llm: LLM, pictures: list[Image.Image]
) -> None:
    asked = llm.generate(QUESTION, pictures, max_new_tokens=8)
    for raw in (asked.prompt_token_ids, tuple(asked.prompt_token_ids)):
        output = llm.complete(raw, pictures, max_new_tokens=8)
        assert output.token_ids == asked.token_ids
        assert output.prompt_token_ids == asked.prompt_token_ids
        assert output.prompt_tokens == asked.prompt_tokens


def test_a_text_is_continued_as_it_is(llm: LLM) -> None:
    tokens = llm.complete("A red", max_new_tokens=0).prompt_token_ids
    bos = llm._engine._tokenizer.delegate.bos_token_id
    assert tokens[0] == bos
    assert bos not in tokens[1:]
    chunks = list(llm.complete("A red", max_new_tokens=4, stream=True))
    assert sum(len(chunk.token_ids) for chunk in chunks) == 4


def test_bad_prompts_are_refused(llm: LLM, pictures: list[Image.Image]) -> None:
    for prompt, images, complaint in (
        ([], (), "must not be empty"),
        ([10**6], (), "token ids from 0 to"),
        ([-1], (), "token ids from 0 to"),
        ("<|image|> What?", (), "1 image placeholders, but 0 images"),
        ("What?", pictures[:1], "0 image placeholders, but 1 images"),
    ):
        with pytest.raises(MllamaError, match=complaint):
            llm.complete(prompt, images)


def test_log_probabilities_come_with_the_tokens(
    llm: LLM, pictures: list[Image.Image]
) -> None:
    output = llm.generate(
        QUESTION, pictures[:1], max_new_tokens=6, logprobs=2, prompt_logprobs=1, n=2
    )
    for choice in output.choices:
        assert choice.logprobs is not None
        assert [each.token_id for each in choice.logprobs] == choice.token_ids
        for each in choice.logprobs:
            assert len(each.top) == 2
            assert each.logprob <= max(each.top.values()) < 0
    found = output.prompt_logprobs
    assert found is not None
    image = llm._engine._tokenizer.delegate.convert_tokens_to_ids("<|image|>")
    assert [each and each.token_id for each in found] == [
        None if index == 0 or token == image else token
        for index, token in enumerate(output.prompt_token_ids)
    ]


def test_settings_shape_the_answer(llm: LLM) -> None:
    first = llm.generate(QUESTION, max_new_tokens=8)
    token = first.token_ids[0]
    other = llm.generate(QUESTION, max_new_tokens=1, logit_bias={token: -100})
    assert other.token_ids[0] != token
    stopped = llm.generate(QUESTION, max_new_tokens=8, stop_token_ids=[token])
    assert (stopped.token_ids, stopped.stop, stopped.text) == ([token], token, "")
    longer = llm.generate(
        QUESTION, max_new_tokens=8, min_tokens=3, stop_token_ids=[token]
    )
    assert len(longer.token_ids) > 3
    endless = llm.generate(QUESTION, max_new_tokens=100, ignore_eos=True)
    assert endless.completion_tokens == 100
    assert endless.finish_reason == "length"
