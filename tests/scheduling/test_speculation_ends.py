"""Answers with guesses end where others do, and so do requests that fail."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.max_compat.pipeline import pipeline_model
from mllama.requests.answers import Answers
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Finished, Piece
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling

from .conftest import ask
from .guessed_requests import (
    LONG,
    Pictures,
    answers_of,
    answers_without_guesses,
    guess_right,
    submit_all,
)
from .harness import Scheduled
from .proposers import Noise, Oracle, always_guess


@pytest.fixture(scope="module")
def expected(roomy: Scheduled, pictures: Pictures) -> list[list[int]]:
    return answers_without_guesses(roomy, pictures)


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


class Failing(Oracle):
    """Knows the answers, but raises from one call on, so many times."""

    def __init__(self, vocabulary: int, first: int, failures: int) -> None:
        super().__init__(0.0, vocabulary)
        self.calls = 0
        self.raising = range(first, first + failures)
        self.forgotten: set[Any] = set()

    def propose(self, contexts: Any, limits: Any) -> Any:
        self.calls += 1
        if self.calls in self.raising:
            self.forgotten = set()
            raise RuntimeError("no more guesses")
        return super().propose(contexts, limits)

    def release(self, request_id: Any) -> None:
        self.forgotten.add(request_id)


@pytest.mark.parametrize(("failures", "given_up"), [(1, False), (2, False), (3, True)])
def test_a_proposer_that_fails_begins_anew_until_it_is_given_up(
    guessing: Scheduled,
    pictures: Pictures,
    expected: list[list[int]],
    caplog: pytest.LogCaptureFixture,
    failures: int,
    given_up: bool,
) -> None:
    guessing.forget()
    failing = Failing(len(guessing.tokenizer.delegate), 20, failures)
    speculation = always_guess(guessing, failing)
    requests = submit_all(guessing, pictures)
    for request, answer in zip(requests, expected, strict=True):
        failing.answers[request.id] = answer
    while failing.calls < 20:
        guessing.step()
    running = {request.id for request in requests if request.status is None}
    if not given_up:
        assert len(failing.forgotten & running) > 1
    counts = speculation.counts
    guessing.run()
    assert answers_of(requests) == expected
    last = failing.raising[-1]
    assert (failing.calls > last) is not given_up
    assert (speculation.counts.accepted > counts.accepted + 50) is not given_up
    assert (speculation._proposer.proposer is None) is given_up
    lines = [each.getMessage() for each in caplog.records if each.name == "mllama"]
    assert len(lines) == failures
    assert ("no further tokens are guessed" in lines[-1]) is given_up


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
