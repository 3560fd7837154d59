"""Guesses are checked by the sampler, which chooses what it chooses one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from max.pipelines.context import (
    EOSTracker,
    GenerationStatus,
    SamplingParams,
    TextContext,
    TokenBuffer,
)

from mllama.max_model.sampling_context import PROMPT_LENGTH, guess_count
from mllama.runtime.host_sampler import sampling_states
from mllama.runtime.speculation.guessing_context import guessing_context
from mllama.runtime.speculation.verification import record_tokens, verified_tokens
from mllama.sampling.sampler import choose_token

PROMPT = [5, 6, 7]
VOCABULARY, END = 12, 0


def request(*generated: int, **sampling: Any) -> Any:
    made = TextContext(
        max_length=100,
        tokens=TokenBuffer(np.array(PROMPT, np.int64)),
        eos_tracker=EOSTracker(eos_token_ids={END}),
        sampling_params=SamplingParams(**{"top_k": 1, **sampling}),
    )
    made.extra_model_args = {PROMPT_LENGTH: np.array([len(PROMPT)])}
    for token in generated:
        made.advance_token_buffer(token)
    return made


def logits_after(tokens: Any) -> np.ndarray:
    """Returns the logits of a model that depends on all tokens so far."""
    seed = [int(token) for token in tokens]
    return np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)


def one_by_one(context: Any, count: int) -> list[int]:
    """Returns the next tokens of an answer, up to one that ends it."""
    tokens: list[int] = []
    (state,) = sampling_states([context])
    for _ in range(count):
        text = [*context.tokens.all, *tokens]
        tokens.append(choose_token(logits_after(text), state))
        if tokens[-1] == END:
            break
        state = state.after(tokens[-1])
    return tokens


def step_logits(context: Any, guesses: list[int]) -> np.ndarray:
    text = [int(token) for token in context.tokens.all]
    return np.stack(
        [logits_after(text + guesses[:count]) for count in range(len(guesses) + 1)]
    )


SETTINGS: list[dict[str, Any]] = [
    {},
    {"top_k": -1, "temperature": 1.0},
    {"top_k": -1, "temperature": 0.7, "repetition_penalty": 1.5},
    {"frequency_penalty": 1.0, "presence_penalty": 0.5},
    {"top_k": 4, "top_p": 0.8, "min_new_tokens": 9},
]


@given(
    sampling=st.sampled_from(SETTINGS),
    seed=st.integers(0, 1000),
    wrong=st.lists(st.integers(0, 6), max_size=3),
    count=st.integers(0, 6),
)
def test_tokens_are_those_of_decoding_one_by_one(
    sampling: dict[str, Any], seed: int, wrong: list[int], count: int
) -> None:
    """Whatever is guessed: the right tokens, with some of them changed."""
    context = request(3, 4, seed=seed, **sampling)
    right = one_by_one(context, count + 1)
    guesses = (right + [1] * 7)[:count]
    for place in wrong:
        if place < count:
            guesses[place] = (guesses[place] + 1) % VOCABULARY
    logits = step_logits(context, guesses)
    (tokens,) = verified_tokens(logits, [context], [np.array(guesses, np.int64)])
    first_wrong = min(
        [n for n, guess in enumerate(guesses) if n >= len(right) or guess != right[n]],
        default=count,
    )
    assert tokens == right[: first_wrong + 1]


def test_a_guess_is_accepted_as_often_as_it_would_be_chosen() -> None:
    """And what takes its place is distributed as the rest."""
    guess = np.array([8], np.int64)
    first: list[int] = []
    for seed in range(4000):
        context = request(3, seed=seed, top_k=-1, temperature=2.0)
        logits = step_logits(context, guess.tolist())
        (tokens,) = verified_tokens(logits, [context], [guess])
        assert (len(tokens) == 2) is (tokens[0] == 8)
        first.append(tokens[0])
    weights = np.exp(logits_after([*PROMPT, 3]).astype(np.float64) / 2)
    shares = np.bincount(first, minlength=VOCABULARY) / len(first)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.03)


def test_requests_of_a_step_have_rows_of_their_own() -> None:
    contexts = [request(1), request(2), request(3)]
    answers = [one_by_one(context, 4) for context in contexts]
    guesses = [answers[0][:2], [], answers[2][:1]]
    logits = np.concatenate(
        [step_logits(*pair) for pair in zip(contexts, guesses, strict=True)]
    )
    arrays = [np.array(each, np.int64) for each in guesses]
    found = verified_tokens(logits, contexts, arrays)
    assert found == [answers[0][:3], answers[1][:1], answers[2][:2]]


def test_a_prompt_that_goes_on_gets_no_token() -> None:
    context = request()
    context.tokens.chunk(2)
    found = verified_tokens(np.zeros((1, VOCABULARY)), [context], [np.empty(0)])
    assert found == [[]]
    assert record_tokens([context], found, None) == {}
    assert context.tokens.processed_length == 2
    assert context.tokens.active_length == 1


@pytest.mark.parametrize(
    ("tokens", "kept", "status"),
    [
        ([1, 2, 3], [1, 2, 3], GenerationStatus.ACTIVE),
        ([1, END, 3], [1, END], GenerationStatus.END_OF_SEQUENCE),
        ([1] * 99, [1] * 97, GenerationStatus.MAXIMUM_LENGTH),
    ],
)
def test_an_answer_gets_tokens_up_to_its_end(
    tokens: list[int], kept: list[int], status: GenerationStatus
) -> None:
    context = request()
    output = record_tokens([context], [tokens], None)[context.request_id]
    assert output.tokens == kept
    assert output.final_status is context.status is status
    assert context.tokens.processed_length == len(PROMPT) + len(kept) - 1
    assert context.tokens.active_length == 1


def test_guesses_are_tokens_of_a_copy_alone() -> None:
    context = request(3, 4)
    before = context.tokens.all.tolist()
    guessing = guessing_context(context, np.array([8, 9], np.int64))
    assert guessing.tokens.active.tolist() == [4, 8, 9]
    assert guessing.tokens.processed_length == context.tokens.processed_length
    assert guess_count(guessing) == 2
    assert guessing.request_id == context.request_id
    assert context.tokens.all.tolist() == before
    assert context.tokens.active.tolist() == [4]
    assert guess_count(context) == 0
    assert guessing_context(context, np.empty(0, np.int64)) is context
    # Forced tokens wait for the same step.
    context.tokens.rewind_processing(1)
    guessing = guessing_context(context, np.array([8], np.int64))
    assert guessing.tokens.active.tolist() == [3, 4, 8]
