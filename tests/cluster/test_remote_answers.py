"""An answer's events share messages where they come fast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from mllama.cluster import remote_answers
from mllama.cluster.messages import RemoteRequest, ReplicaFigures
from mllama.cluster.remote_answers import RemoteAnswers
from mllama.requests.events import Event, Piece
from mllama.requests.request import GenerationRequest

FIGURES = ReplicaFigures("replica", "node")
PIECES = [Piece(0, str(number), [number]) for number in range(12)]


def answered(pause: float) -> list[list[Any]]:
    """Returns the messages of an answer whose events come after pauses."""

    async def generate(request: Any) -> AsyncGenerator[Event, None]:
        for piece in PIECES:
            await asyncio.sleep(pause)
            yield piece

    async def run() -> list[list[Any]]:
        client: Any = SimpleNamespace(generate=generate)
        answers = RemoteAnswers(client, lambda: FIGURES, lambda: None)
        remote = RemoteRequest(
            request=GenerationRequest(prompt="Hi"), images=[], request_id=None
        )
        return [list(message) async for message in answers.answer(remote)]

    return asyncio.run(run())


def test_events_that_come_fast_share_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_answers, "_MESSAGE_SECONDS", 3)
    messages = answered(0.001)
    # The first event waits for no other one.
    assert len(messages) == 2
    assert [*messages[0], *messages[1]] == [FIGURES, *PIECES, FIGURES]


def test_events_that_come_slowly_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_answers, "_MESSAGE_SECONDS", 0.0)
    messages = answered(0.001)
    assert len(messages) >= len(PIECES)
    events = [event for message in messages for event in message]
    assert events == [FIGURES, *PIECES, FIGURES]
