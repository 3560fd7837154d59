"""Requests wait for their grammars, and only those that have one."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from mllama.max_model.sampling_context import set_grammar
from mllama.requests.answer_matcher import (
    AnswerMatcher,
)
from mllama.runtime.grammar_gate import GrammarGate
from tests.grammars.walking import demo_grammars


def request(grammar: str | None, name: str = "one") -> Any:
    context = SimpleNamespace(request_id=name, extra_model_args={}, matcher=None)
    context.set_matcher = lambda matcher: setattr(context, "matcher", matcher)
    if grammar is not None:
        set_grammar(context, grammar)
    return context


def ready(gate: GrammarGate, context: Any) -> None:
    """Waits until a request's grammar is read."""
    event = threading.Event()
    gate.call_when_ready(event.set)
    gate.submit(context)
    assert event.wait(30)
    assert gate.is_ready(context)


def test_a_free_request_never_waits() -> None:
    gate, free = GrammarGate(demo_grammars), request(None)
    gate.submit(free)
    assert gate.is_ready(free)
    assert gate.install_ready(free) is None
    assert free.matcher is None


def test_a_request_gets_its_grammar_once() -> None:
    gate, context = GrammarGate(demo_grammars), request('start: "a"')
    ready(gate, context)
    assert gate.install_ready(context) is None
    matcher = context.matcher
    assert isinstance(matcher, AnswerMatcher)
    gate.submit(context)
    assert gate.install_ready(context) is None
    assert context.matcher is matcher


def test_requests_do_not_share_the_state_of_their_grammar() -> None:
    gate = GrammarGate(demo_grammars)
    both = [request('start: "a"', name) for name in ("one", "two")]
    for context in both:
        ready(gate, context)
        gate.install_ready(context)
    assert both[0].matcher is not both[1].matcher


def test_a_grammar_that_can_not_be_read_fails_the_request() -> None:
    gate, context = GrammarGate(demo_grammars), request("nonsense")
    ready(gate, context)
    assert gate.install_ready(context) is not None
    assert context.matcher is None


def test_a_released_request_is_forgotten() -> None:
    gate, context = GrammarGate(demo_grammars), request('start: "a"')
    ready(gate, context)
    gate.release("one")
    gate.release("one")
    assert gate.install_ready(context) is None
    assert context.matcher is None
