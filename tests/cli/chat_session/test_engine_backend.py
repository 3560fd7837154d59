"""Ctrl-C stops an answer of the engine in this process between two of its steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from max.pipelines.context import GenerationStatus

from mllama.cli.chat_session.engine_backend import EngineBackend
from mllama.cli.chat_session.settings import AnswerSettings
from tests.engine.test_generation import Request

ACTIVE = GenerationStatus.ACTIVE


class OneRequest(Request):
    """A model with one request, as ``EngineBackend`` uses it."""

    image_cache = SimpleNamespace(hits=0)
    is_interrupted_at_submission = False

    def chat(self, messages: Any, **options: Any) -> Any:
        if self.is_interrupted_at_submission:
            signal.raise_signal(signal.SIGINT)
        return self.generation


@pytest.fixture(autouse=True)
def handler() -> Iterator[Any]:
    """Python's handler of Ctrl-C, which is there again after each answer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def pieces(model: Any) -> Iterator[Any]:
    return EngineBackend(model, "a model").answer([], AnswerSettings({}))


@pytest.mark.timeout(20)
def test_ctrl_c_wakes_what_waits_for_a_step() -> None:
    model = OneRequest()
    model.deliver("a", ACTIVE, 12.0)
    answer = pieces(model)
    assert next(answer) == "a"
    pressed = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    pressed.start()
    with pytest.raises(KeyboardInterrupt):
        next(answer)
    assert model.cancelled == [0]


def test_ctrl_c_before_the_request_is_submitted_stops_it_afterwards() -> None:
    model = OneRequest()
    model.is_interrupted_at_submission = True
    with pytest.raises(KeyboardInterrupt):
        next(pieces(model))
    assert model.cancelled == [0]


def test_ctrl_c_between_two_pieces_stops_before_the_next() -> None:
    model = OneRequest()
    model.deliver("a", ACTIVE, 12.0)
    model.deliver("b", ACTIVE, 13.0)
    answer = pieces(model)
    assert next(answer) == "a"
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        next(answer)
    assert model.cancelled == [0]


def test_an_answer_that_nobody_stops_has_its_end() -> None:
    model = OneRequest()
    model.deliver("a", GenerationStatus.END_OF_SEQUENCE, 12.0)
    *text, end = pieces(model)
    assert (text, end.finish_reason) == (["a"], "stop")
    assert model.cancelled == []


def test_in_another_thread_signals_are_left_alone() -> None:
    model = OneRequest()
    model.deliver("a", GenerationStatus.END_OF_SEQUENCE, 12.0)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(pieces(model)))
    thread.start()
    thread.join(10)
    assert found[0] == "a"
