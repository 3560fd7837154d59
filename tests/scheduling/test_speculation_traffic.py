"""Random conversations are guessed, cancelled and preempted at random."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from max.pipelines.context.exceptions import InputError

from mllama.runtime.speculation.draft_proposer import DraftProposer
from mllama.runtime.speculation.guess_budget import GuessBudget
from mllama.runtime.speculation.prompt_lookup import PromptLookup
from tests.runtime.speculation.draft_models import CountingModel

from .guessed_requests import (
    SETTINGS,
    Pictures,
)
from .harness import WHOLE, Request, Scheduled
from .proposers import Oracle, always_guess
from .test_any_traffic import event, messages_of

PAGES = 8
"""Pages of the draft model's cache, which the requests of a batch compete for."""


_reference_answers: dict[str, list[int]] = {}


def guess_with(guesser: str, scheduled: Scheduled, oracle: Oracle, limit: int) -> Any:
    """Makes a scheduler guess with a proposer of that name, and returns it."""
    speculation = scheduled.speculation
    assert speculation is not None
    model: Any = CountingModel(
        pages=PAGES, vocabulary=len(scheduled.tokenizer.delegate)
    )
    proposer = {
        "oracle": oracle,
        "lookup": PromptLookup(),
        "draft": DraftProposer(model, prefill_tokens=16),
    }[guesser.split()[0]]
    always_guess(scheduled, proposer, limit)
    speculation._observes = not guesser.startswith("draft")
    if guesser.endswith("as far as it pays"):
        probes = not speculation._observes
        speculation.budget = GuessBudget(speculation.times, probes=probes)
    return proposer


@pytest.mark.parametrize(
    "guesser",
    ["oracle", "lookup as far as it pays", "draft", "draft as far as it pays"],
)
@settings(
    max_examples=20,
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
    caplog: pytest.LogCaptureFixture,
    guesser: str,
    events: list[tuple[str, Any]],
    wrong: float,
    limit: int,
) -> None:
    """Requests arrive, are cancelled and preempted between any two steps."""
    guessing.forget()
    guessing.chunk_size(WHOLE)
    oracle = Oracle(wrong, len(guessing.tokenizer.delegate))
    proposer = guess_with(guesser, guessing, oracle, limit)
    submitted: list[tuple[str, Request]] = []
    cancelled = set()
    for kind, value in events:
        if kind == "submit":
            number = len(submitted) % len(SETTINGS)
            name = f"{number} {value}"
            messages = messages_of(value, pictures)
            sampling = SETTINGS[number]
            length = max(12, sampling.get("min_new_tokens", 0))
            try:
                request = guessing.submit(messages, length, **sampling)
            except InputError:
                continue  # the pictures need more than three pages
            if name not in _reference_answers:
                roomy.forget()
                reference = roomy.submit(messages, length, **sampling)
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
    assert "guessing failed" not in caplog.text
    assert_nothing_is_left(guessing, proposer)


def assert_nothing_is_left(scheduled: Scheduled, proposer: Any) -> None:
    """Asserts that all requests are forgotten, and what they had is free."""
    assert scheduled.blocks.pinned_entries == 0
    blocks = scheduled.pipeline.kv_manager.block_count()
    assert blocks.free == blocks.total
    speculation = scheduled.speculation
    assert speculation is not None
    assert not speculation._unchecked
    if isinstance(speculation.budget, GuessBudget):
        assert not speculation.budget._paces
    if isinstance(proposer, PromptLookup):
        assert not proposer._indexes
    if isinstance(proposer, DraftProposer):
        assert not proposer._image_tokens
        assert not proposer._model.cache._sequences
        assert proposer._model.cache.num_free == PAGES
