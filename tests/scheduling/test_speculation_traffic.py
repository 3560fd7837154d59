"""Random conversations are guessed, cancelled and preempted at random."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from max.pipelines.context.exceptions import InputError

from .guessed_requests import (
    SETTINGS,
    Pictures,
)
from .harness import WHOLE, Request, Scheduled
from .proposers import Oracle, always_guess
from .test_any_traffic import event, messages_of

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
