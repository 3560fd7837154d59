"""Answers are the same with and without guesses, however right the guesses are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from max.pipelines.context.exceptions import InputError
from PIL import Image

from mllama.max_compat.pipeline import pipeline_model
from mllama.max_model.sampling_context import LogProbabilityCounts
from mllama.requests.answers import Answers
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Finished, Piece
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling
from mllama.runtime.speculation.guess_counts import GuessCounts
from mllama.runtime.speculation.prompt_lookup import PromptLookup
from mllama.runtime.speculation.speculation import Speculation

from . import test_formats
from .conftest import ask
from .harness import WHOLE, Request, Scheduled
from .proposers import NONE, Noise, Oracle, always_guess
from .test_any_traffic import event, messages_of
from .test_overlap import record_runs, settle

Pictures = list[Image.Image]
LONG = 140
"""Length of answers that outgrow a page of the KV cache."""

SETTINGS: list[dict[str, Any]] = [
    {},
    {"top_k": -1, "temperature": 1.5, "seed": 1},
    {"top_k": 20, "top_p": 0.95, "min_p": 0.01, "temperature": 2.0, "seed": 2},
    {"frequency_penalty": 2.0, "presence_penalty": 1.0},
    {
        "top_k": -1,
        "repetition_penalty": 1.8,
        "temperature": 1.2,
        "bias": {9: 4.0},
        "seed": 4,
    },
    {
        "top_k": -1,
        "temperature": 1.5,
        "min_new_tokens": 30,
        "ignore_eos": False,
        "seed": 5,
    },
    {"ignore_eos": False},
]
"""Of each request of a batch; the last two end where the model ends them."""


@pytest.fixture(autouse=True)
def adaptive_again(guessing: Scheduled) -> Iterator[None]:
    """Leaves the scheduler as it was."""
    speculation = guessing.speculation
    assert speculation is not None
    proposer, budget = speculation._proposer, speculation.budget
    yield
    speculation._proposer, speculation.budget = proposer, budget
    guessing.chunk_size(WHOLE)


def submit_all(
    scheduled: Scheduled, pictures: Pictures, length: int = LONG
) -> list[Request]:
    """Submits a request with each of the settings, some of them about pictures."""
    requests = []
    for number, sampling in enumerate(SETTINGS):
        shown = [pictures[0]] if number % 2 else []
        messages = ask(*shown, f"What is in number {number}?")
        requests.append(scheduled.submit(messages, length, **sampling))
    return requests


def answers_of(requests: list[Request]) -> list[list[int]]:
    assert all(
        each.status in ("end_of_sequence", "maximum_length") for each in requests
    )
    return [request.token_ids for request in requests]


@pytest.fixture(scope="module")
def expected(roomy: Scheduled, pictures: Pictures) -> list[list[int]]:
    """The answer with each of the settings, without guesses."""
    roomy.forget()
    requests = submit_all(roomy, pictures)
    roomy.run()
    return answers_of(requests)


def guess_right(
    scheduled: Scheduled,
    requests: list[Request],
    answers: list[list[int]],
    wrong: float = 0.0,
    limit: int = 4,
) -> Speculation:
    """Has a scheduler guess the answers of requests, a share of the tokens wrongly."""
    oracle = Oracle(wrong, len(scheduled.tokenizer.delegate))
    for request, answer in zip(requests, answers, strict=True):
        oracle.answers[request.id] = answer
    return always_guess(scheduled, oracle, limit)


@pytest.mark.parametrize(("wrong", "limit"), [(0.0, 1), (0.0, 8), (0.3, 4), (1.0, 3)])
def test_answers_are_the_same_whatever_is_guessed(
    guessing: Scheduled,
    pictures: Pictures,
    expected: list[list[int]],
    wrong: float,
    limit: int,
) -> None:
    guessing.forget()
    requests = submit_all(guessing, pictures)
    speculation = guess_right(guessing, requests, expected, wrong, limit)
    speculation.counts = GuessCounts()
    guessing.run()
    assert answers_of(requests) == expected
    proposed, accepted = speculation.counts.proposed, speculation.counts.accepted
    assert proposed > LONG
    assert accepted == proposed if wrong == 0 else accepted < proposed
    assert (accepted == 0) is (wrong == 1)


def test_right_guesses_save_steps(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    guessing.forget()
    request = guessing.submit(ask("What is in number 0?"), LONG)
    guess_right(guessing, [request], expected[:1])
    guessing.run()
    assert request.token_ids == expected[0]
    # A step with four right guesses has five tokens.
    assert len(request.outputs) < LONG / 4


def test_a_step_with_guesses_runs_before_the_scheduler_asks_for_it(
    guessing: Scheduled, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    guessing.forget()
    assert guessing.overlap is not None
    token_counts = record_runs(guessing, monkeypatch)
    request = guessing.submit(ask("What is in number 0?"), LONG)
    guess_right(guessing, [request], expected[:1])
    for _ in range(4):
        guessing.step()
    settle(guessing.overlap)
    assert len(token_counts) == 5
    assert token_counts[1:] == [5] * 4
    assert len(request.token_ids) == 1 + 3 * 5
    guessing.run()
    assert request.token_ids == expected[0]


def test_steps_are_predicted_where_no_guess_is_promising(
    guessing: Scheduled, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    guessing.forget()
    overlap: Any = guessing.overlap
    record, recorded = overlap._record_tokens, 0

    def counting(inputs: Any) -> Any:
        nonlocal recorded
        outputs = record(inputs)
        recorded += outputs is not None
        return outputs

    monkeypatch.setattr(overlap, "_record_tokens", counting)
    always_guess(guessing, PromptLookup(), 0)
    request = guessing.submit(ask("What is in number 0?"), 60)
    guessing.run()
    assert request.token_ids == expected[0][:60]
    assert recorded > 55


def test_guesses_of_the_text_itself_change_no_answer(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    for proposer in (PromptLookup(), Noise(len(guessing.tokenizer.delegate))):
        guessing.forget()
        always_guess(guessing, proposer)
        requests = submit_all(guessing, pictures)
        guessing.run()
        assert answers_of(requests) == expected


def test_the_default_budget_changes_no_answer_and_counts(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    guessing.forget()
    speculation = guessing.speculation
    assert speculation is not None
    requests = submit_all(guessing, pictures)
    guessing.run()
    assert answers_of(requests) == expected
    counts = speculation.counts
    assert counts.drafts <= counts.proposed
    assert counts.accepted <= counts.proposed
    assert not speculation.budget._paces
    assert not speculation._unchecked


@pytest.mark.parametrize("size", [1, 5])
def test_chunks_of_other_prompts_share_steps_with_guesses(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]], size: int
) -> None:
    guessing.forget()
    guessing.chunk_size(size)
    oracle = Oracle(0.2, len(guessing.tokenizer.delegate))
    always_guess(guessing, oracle)
    requests = []
    for number, sampling in enumerate(SETTINGS):
        shown = [pictures[0]] if number % 2 else []
        messages = ask(*shown, f"What is in number {number}?")
        requests.append(guessing.submit(messages, LONG, **sampling))
        oracle.answers[requests[-1].id] = expected[number]
        for _ in range(3):
            guessing.step()
    guessing.run()
    assert answers_of(requests) == expected


def test_equal_prompts_share_the_prefix_cache(
    guessing: Scheduled, roomy: Scheduled
) -> None:
    """Blocks that were filled in steps with guesses are those of the answer."""
    text = "Tell me everything about the circle, the square and the star. " * 12
    first = ask(text)
    roomy.forget()
    reference = roomy.submit(first, LONG)
    roomy.run()
    guessing.forget()
    request = guessing.submit(first, LONG)
    guess_right(guessing, [request], [reference.token_ids], wrong=0.4)
    guessing.run()
    assert request.token_ids == reference.token_ids
    # The next turn takes prompt and answer from the cache.
    decode = guessing.tokenizer.delegate.decode
    turn = [
        *first,
        {"role": "assistant", "content": decode(reference.token_ids)},
        *ask("And then?"),
    ]
    roomy.forget()
    always_guess(guessing, Noise(100))
    assert guessing.answers([turn]) == roomy.answers([turn])


def test_without_the_prefix_cache(
    roomy: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    uncached = Scheduled(
        max_batch_size=8,
        image_cache_size="16MiB",
        prefix_caching=False,
        speculate="lookup",
    )
    always_guess(uncached, Noise(len(uncached.tokenizer.delegate)))
    requests = submit_all(uncached, pictures)
    uncached.run()
    assert answers_of(requests) == expected


def test_formats_are_kept(guessing: Scheduled, roomy: Scheduled) -> None:
    roomy.forget()
    references = test_formats.submit_all(roomy)
    roomy.run()
    answers = [request.token_ids for request in references]
    for wrong in (0.0, 0.5):
        guessing.forget()
        requests = test_formats.submit_all(guessing)
        guess_right(guessing, requests, answers, wrong)
        guessing.run()
        assert [request.token_ids for request in requests] == answers


def test_tokens_that_a_grammar_forbids_are_not_checked(guessing: Scheduled) -> None:
    forbidden = Noise(len(guessing.tokenizer.delegate))
    speculation = always_guess(guessing, forbidden)
    before = speculation.counts.proposed
    only_one = test_formats.OutputFormat.regex("a{60}")
    request = test_formats.submit(guessing, only_one)
    guessing.run()
    text = test_formats.text_of(guessing, request)
    assert text == "a" * 60
    # Nearly all random tokens are something else.
    assert speculation.counts.proposed - before < 20


def test_forced_tokens_are_guessed_if_each_needs_log_probabilities(
    guessing: Scheduled, roomy: Scheduled
) -> None:
    text = "It is a circle, and that is all there is to say about it."
    only_one = test_formats.OutputFormat.regex(text.replace(".", "\\."))

    class Nothing:
        def propose(self, contexts: Any, limits: Any) -> Any:
            return [NONE] * len(contexts)

        def release(self, request_id: Any) -> None:
            pass

    speculation = always_guess(guessing, Nothing(), 0)
    found = []
    for scheduled in (roomy, guessing):
        scheduled.forget()
        before = speculation.counts.accepted
        request = test_formats.submit(scheduled, only_one, logprobs=2)
        scheduled.run()
        assert test_formats.text_of(scheduled, request) == text
        found.append(request)
    reference, guessed = found
    assert guessed.token_ids == reference.token_ids
    assert speculation.counts.accepted - before > len(guessed.token_ids) / 2
    assert len(guessed.outputs) < len(reference.outputs) / 2
    assert_same_log_probabilities(guessed, reference)


def assert_same_log_probabilities(one: Request, other: Request) -> None:
    """Checks the log probabilities of two answers; rounding differs a little."""
    assert len(one.log_probabilities) == len(other.log_probabilities) > 0
    for mine, theirs in zip(
        one.log_probabilities, other.log_probabilities, strict=True
    ):
        assert mine.sampled_token_ids == theirs.sampled_token_ids
        np.testing.assert_allclose(
            mine.token_log_probabilities, theirs.token_log_probabilities, atol=1e-3
        )
        for ours, reference in zip(
            mine.top_log_probabilities, theirs.top_log_probabilities, strict=True
        ):
            assert ours.keys() == reference.keys()


def test_log_probabilities_are_those_of_each_token(
    guessing: Scheduled, roomy: Scheduled
) -> None:
    """Of answers, and of a prompt that is prefilled while another is guessed."""
    counts = LogProbabilityCounts(answer=3)
    prompts = LogProbabilityCounts(answer=1, prompt=2)
    found: list[list[Request]] = []
    for scheduled in (roomy, guessing):
        scheduled.forget()
        first = scheduled.submit(ask("Number 1"), 40, counts=counts, top_k=-1, seed=4)
        if scheduled is guessing:
            guess_right(guessing, [first], [found[0][0].token_ids], wrong=0.2)
        for _ in range(4):
            scheduled.step()
        second = scheduled.submit(ask("Number 2"), 10, counts=prompts)
        scheduled.run()
        found.append([first, second])
    for one, other in zip(*found, strict=True):
        assert one.token_ids == other.token_ids
        assert_same_log_probabilities(one, other)


def test_an_answer_ends_at_an_end_token_among_right_guesses(
    guessing: Scheduled, roomy: Scheduled
) -> None:
    """Guesses beyond it are no part of it."""
    ends = sorted(roomy.tokenizer.eos_token_ids)
    roomy.forget()
    reference = roomy.submit(ask("Hello"), LONG, ignore_eos=False)
    roomy.run()
    assert reference.token_ids[-1] in ends
    answer = [*reference.token_ids, *[5, 6, 7, 8] * 2]
    for limit in range(1, 9):
        guessing.forget()
        request = guessing.submit(ask("Hello"), LONG, ignore_eos=False)
        guess_right(guessing, [request], [answer], limit=limit)
        guessing.run()
        assert request.token_ids == reference.token_ids
        assert request.status == "end_of_sequence"


def test_a_stop_string_among_right_guesses_ends_the_same_answer(
    guessing: Scheduled, roomy: Scheduled
) -> None:
    """The scheduler doesn't know stop strings: who reads its reports finds them."""

    def ended(scheduled: Scheduled, stop: str | None, known: list[int]) -> Any:
        request = GenerationRequest(
            prompt=ChatPrompt(messages=ask("Hello")),
            sampling=Sampling(
                max_new_tokens=60, temperature=1.5, seed=3, logprobs=1, stop=stop
            ),
        )
        prepared = scheduled.prepare(request)
        scheduled.forget()
        submitted = scheduled.submit_context(prepared.contexts[0])
        if known:
            guess_right(scheduled, [submitted], [known])
        scheduled.run()
        answers = Answers(prepared, scheduled.tokenizer, 0.0)
        events: list[Any] = []
        for output in submitted.outputs:
            events += answers.receive(0, [output], 1.0)
            if isinstance(events[-1], Finished):
                break
        pieces = [event for event in events if isinstance(event, Piece)]
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.token_ids]
        end = events[-1]
        return text, tokens, end.reason, end.completion_tokens, submitted.token_ids

    text, _, _, _, tokens = ended(roomy, None, [])
    assert len(text) > 20
    for start in (5, 9, 14):
        stop = text[start : start + 4]
        reference = ended(roomy, stop, [])
        assert reference[0] == text[: text.index(stop)]
        assert reference[2] == "stop"
        assert ended(guessing, stop, tokens) == reference


@pytest.mark.parametrize("length", [1, 2, 3, 6, 7])
def test_an_answer_has_no_more_tokens_than_allowed(
    guessing: Scheduled, expected: list[list[int]], length: int
) -> None:
    guessing.forget()
    request = guessing.submit(ask("What is in number 0?"), length)
    guess_right(guessing, [request], expected[:1], limit=8)
    guessing.run()
    assert request.token_ids == expected[0][:length]
    assert request.status == "maximum_length"


def test_a_failing_proposer_ends_guessing_and_no_request(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    class Failing:
        calls = 0

        def propose(self, contexts: Any, limits: Any) -> Any:
            self.calls += 1
            raise RuntimeError("no more guesses")

        def release(self, request_id: Any) -> None:
            pass

    guessing.forget()
    failing = Failing()
    speculation = always_guess(guessing, failing)
    requests = submit_all(guessing, pictures)
    guessing.run()
    assert answers_of(requests) == expected
    assert failing.calls == 1
    assert speculation._proposer is None


def test_a_request_that_fails_alone_ends_alone(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    """The others of a step with guesses get their answers."""
    guessing.forget()
    requests = submit_all(guessing, pictures)
    guess_right(guessing, requests, expected, wrong=0.2)
    for _ in range(4):
        guessing.step()
    broken = requests[1]
    broken.context.sampling_params.top_p = "all"
    guessing.run()
    assert broken.status == "failed"
    rest = [0, *range(2, len(requests))]
    assert [requests[index].token_ids for index in rest] == [
        expected[index] for index in rest
    ]


def test_guesses_take_no_blocks(
    guessing: Scheduled, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request has the blocks of its own tokens, in each step."""
    model = pipeline_model(guessing.pipeline)
    manager = guessing.pipeline.kv_manager
    prepare, seen = model.prepare_initial_token_inputs, []

    def checking(replica_batches: Any, **more: Any) -> Any:
        for context in replica_batches[0]:
            blocks = manager.num_req_blocks(context)
            end = context.tokens.current_position
            seen.append((blocks * 128 - end, blocks * 128 - end >= 128))
        return prepare(replica_batches=replica_batches, **more)

    monkeypatch.setattr(model, "prepare_initial_token_inputs", checking)
    guessing.forget()
    always_guess(guessing, Noise(len(guessing.tokenizer.delegate)), 8)
    submit_all(guessing, pictures)
    guessing.run()
    assert min(room for room, _ in seen) >= 0
    assert not any(has_spare for _, has_spare in seen)


_reference_answers: dict[str, list[int]] = {}


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=st.lists(event, min_size=3, max_size=14),
    wrong=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    limit=st.integers(1, 8),
)
def test_any_traffic(
    guessing: Scheduled,
    roomy: Scheduled,
    pictures: Pictures,
    events: list[tuple[str, Any]],
    wrong: float,
    limit: int,
) -> None:
    """Requests arrive, are cancelled and preempted between any two steps."""
    guessing.forget()
    guessing.chunk_size(WHOLE)
    oracle = Oracle(wrong, len(guessing.tokenizer.delegate))
    always_guess(guessing, oracle, limit)
    submitted: list[tuple[str, Request]] = []
    cancelled = set()
    for kind, value in events:
        if kind == "submit":
            number = len(submitted) % len(SETTINGS)
            name = f"{number} {value}"
            messages = messages_of(value, pictures)
            sampling = SETTINGS[number]
            try:
                request = guessing.submit(messages, 12, **sampling)
            except InputError:
                continue  # the pictures need more than three pages
            if name not in _reference_answers:
                roomy.forget()
                reference = roomy.submit(messages, 12, **sampling)
                roomy.run()
                _reference_answers[name] = reference.token_ids
            oracle.answers[request.id] = _reference_answers[name]
            submitted.append((name, request))
        elif kind == "step":
            for _ in range(value):
                guessing.step()
        elif kind == "chunk":
            guessing.chunk_size(value)
        elif submitted:
            _, request = submitted[value % len(submitted)]
            if kind == "cancel":
                cancelled.add(request.id)
                guessing.cancel(request)
            elif request.status is None:
                guessing.preempt(request)
    guessing.run()
    for name, request in submitted:
        if request.status == "cancelled":
            assert request.id in cancelled
        else:
            assert request.token_ids == _reference_answers[name]
    assert guessing.blocks.pinned_entries == 0
