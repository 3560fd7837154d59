"""Random conversations arrive, and are cancelled and preempted, at random."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from max.pipelines.context.exceptions import InputError
from PIL import Image

from .conftest import content
from .harness import WHOLE, Scheduled

SHOWN = 6
"""Pictures in the conversations; the image cache has room for three pages."""

part = st.one_of(
    st.integers(0, SHOWN - 1),
    st.sampled_from(["What is this?", "And", "Which colors are there?", "Compare."]),
)
turn = st.lists(part, min_size=1, max_size=4)
conversation = st.lists(turn, min_size=1, max_size=3)
event = st.one_of(
    st.tuples(st.just("submit"), conversation),
    st.tuples(st.just("step"), st.integers(1, 4)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("preempt"), st.integers(0, 20)),
    st.tuples(st.just("chunk"), st.sampled_from([5, 16, 8192])),
)

_reference_answers: dict[str, list[int]] = {}
"""Reference answers to requests that ran alone, by conversation."""


def messages_of(turns: list[list[Any]], pictures: list[Image.Image]) -> list[Any]:
    made: list[Any] = []
    for number, parts in enumerate(turns):
        if number:
            made.append({"role": "assistant", "content": "A square."})
        shown = [pictures[p] if isinstance(p, int) else p for p in parts]
        made.append({"role": "user", "content": [content(each) for each in shown]})
    return made


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=st.lists(event, min_size=3, max_size=14))
def test_every_answer_equals_that_of_the_request_run_alone(
    tight: Scheduled,
    roomy: Scheduled,
    pictures: list[Image.Image],
    events: list[tuple[str, Any]],
) -> None:
    tight.forget()
    tight.chunk_size(WHOLE)
    submitted: list[tuple[str, Any]] = []
    cancelled = set()
    for kind, value in events:
        if kind == "submit":
            name = json.dumps(value)
            messages = messages_of(value, pictures)
            try:
                request = tight.submit(messages)
            except InputError:
                continue  # the pictures need more than three pages
            if name not in _reference_answers:
                _reference_answers[name] = roomy.alone(messages)
            submitted.append((name, request))
        elif kind == "step":
            for _ in range(value):
                tight.step()
        elif kind == "chunk":
            tight.chunk_size(value)
        elif submitted:
            _, request = submitted[value % len(submitted)]
            if kind == "cancel":
                cancelled.add(request.id)
                tight.cancel(request)
            elif request.status is None:
                tight.preempt(request)
    tight.run()
    tight.chunk_size(WHOLE)
    for name, request in submitted:
        if request.status == "cancelled":
            assert request.id in cancelled
        else:
            assert request.token_ids == _reference_answers[name]
    assert tight.blocks.pinned_entries == 0
    assert tight.blocks.num_pages == 4
