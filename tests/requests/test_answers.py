"""The scheduler's reports become events: text, stops, log probabilities and usage."""

from __future__ import annotations

from typing import Any

import pytest
from max.pipelines.context import LogProbabilities

from mllama.errors import EngineError
from mllama.requests.answers import Answers
from mllama.requests.events import (
    Event,
    Finished,
    Piece,
    PromptRead,
    TokenLogprob,
    ToolCallArguments,
    ToolCallEnded,
    ToolCallEvent,
    ToolCallStarted,
)
from mllama.requests.tool_use import ToolUse

from .scheduler_reports import (
    ACTIVE,
    ENDED,
    FAILED,
    FULL,
    MODEL_TOKENIZER,
    prepared,
    report,
    tokens_of,
)

A, B, DOT = tokens_of("ab.")


def answers(choices: int = 1, **sampling: Any) -> Answers:
    return Answers(prepared(choices, **sampling), MODEL_TOKENIZER, 10.0)


def received(made: Answers, *reports: Any) -> list[Event]:
    events: list[Event] = []
    for index, each in enumerate(reports):
        events += made.receive(0, [each], 11.0 + index)
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def tokens_in(events: list[Event]) -> list[int]:
    pieces = [event for event in events if isinstance(event, Piece)]
    return [token for piece in pieces for token in piece.token_ids]


def end_of(events: list[Event]) -> Finished:
    (end,) = [event for event in events if isinstance(event, Finished)]
    assert events[-1] is end
    return end


def test_an_answer_reads_its_prompt_and_ends_with_its_usage_and_times() -> None:
    made = answers()
    events = received(
        made, report("a", cached=5), report("b"), report("c", ENDED, cached=9)
    )
    assert events[0] == PromptRead(list(range(7)), 100, cached_tokens=5)
    assert sum(isinstance(event, PromptRead) for event in events) == 1
    assert text_of(events) == "abc"
    end = end_of(events)
    assert (end.reason, end.stop, end.completion_tokens) == ("stop", None, 3)
    assert end.timings.first_token_seconds == 1.0
    assert end.timings.decode_seconds == 2.0
    assert made.are_finished


def test_reports_of_several_steps_make_one_piece() -> None:
    made = answers()
    events = made.receive(0, [report("a"), report("b"), report("", FULL)], 11.0)
    assert [type(event) for event in events] == [PromptRead, Piece, Finished]
    assert (text_of(events), end_of(events).reason) == ("ab", "length")


def test_a_stop_string_ends_the_answer_at_its_token() -> None:
    """Later tokens of the same report are not part of the answer."""
    made = answers(stop=["b.", "zz"])
    events = received(made, report("a"), report("b.cd"), report("more"))
    assert text_of(events) == "a"
    assert tokens_in(events) == [A, B, DOT]
    end = end_of(events)
    assert (end.reason, end.stop, end.completion_tokens) == ("stop", "b.", 3)


def test_of_two_stop_strings_the_one_that_begins_first_is_found() -> None:
    events = received(answers(stop=["cd", "bc"]), report("abcd", FULL))
    assert (text_of(events), end_of(events).stop) == ("a", "bc")


def test_text_that_began_a_stop_string_comes_at_the_end() -> None:
    events = received(answers(stop=["b."]), report("ab"), report("", FULL))
    assert (text_of(events), end_of(events).reason) == ("ab", "length")


def test_a_stop_token_ends_the_answer_without_its_text() -> None:
    events = received(answers(stop_token_ids=[DOT]), report("ab"), report(".", ENDED))
    assert (text_of(events), tokens_in(events)) == ("ab", [A, B, DOT])
    assert (end_of(events).reason, end_of(events).stop) == ("stop", DOT)


def test_a_stop_token_at_the_limit_has_its_text() -> None:
    """It ended nothing: a token that MAX stops at has another status."""
    events = received(answers(stop_token_ids=[DOT]), report("a.", FULL))
    assert (text_of(events), end_of(events).stop) == ("a.", None)


@pytest.mark.parametrize(("least", "text"), [(0, ""), (1, ""), (2, "a"), (4, "aaa")])
def test_stop_strings_do_not_count_before_min_tokens(least: int, text: str) -> None:
    made = answers(stop="a", min_tokens=least)
    events = made.receive(0, [report("aa")], 11.0)
    events += made.receive(0, [report("aaa", FULL)], 12.0)
    assert text_of(events) == text
    assert end_of(events).stop == "a"
    assert end_of(events).completion_tokens == max(1, least)


def test_a_limit_of_no_tokens_only_reads_the_prompt() -> None:
    for status in (FULL, ENDED):
        events = received(answers(max_new_tokens=0), report("a", status, cached=2))
        assert [type(event) for event in events] == [PromptRead, Finished]
        assert end_of(events).completion_tokens == 0
        assert end_of(events).reason == "length"


def test_an_end_token_without_text_is_counted() -> None:
    events = received(answers(), report([], ENDED))
    assert end_of(events).completion_tokens == 0
    assert isinstance(events[0], PromptRead)


def logprobs(token: int, *likeliest: int) -> LogProbabilities:
    return LogProbabilities(
        token_log_probabilities=[-1.0],
        top_log_probabilities=[
            {other: -0.1 * (index + 1) for index, other in enumerate(likeliest)}
            | {token: -1.0}
        ],
        sampled_token_ids=[token],
    )


@pytest.mark.parametrize("count", [0, 1, 2])
def test_log_probabilities_are_those_of_the_likeliest_tokens(count: int) -> None:
    (read, piece) = received(
        answers(logprobs=count), report("a", logprobs=[logprobs(A, 90, 91)])
    )
    assert isinstance(piece, Piece)
    expected = dict([(90, -0.1), (91, -0.2)][:count])
    (found,) = piece.logprobs
    assert (found.token_id, found.logprob) == (A, -1.0)
    assert found.top == pytest.approx(expected)
    assert list(found.top) == list(expected)
    assert isinstance(read, PromptRead)
    assert read.logprobs is None


def test_steps_with_and_without_log_probabilities_go_together() -> None:
    """MAX's own function that merges reports fails on them."""
    events = answers(logprobs=0).receive(
        0, [report("a", logprobs=[logprobs(A)]), report("", FULL)], 11.0
    )
    assert events[1] == Piece(0, "a", [A], [TokenLogprob(A, -1.0)])


@pytest.mark.parametrize("count", [None, 0])
def test_log_probabilities_of_the_prompt_come_first(count: int | None) -> None:
    """The first token and images have none."""
    of_prompt = [logprobs(token, 90, 91) for token in (1, 3, 5, 6)]
    of_answer = [] if count is None else [logprobs(A)]
    events = received(
        answers(logprobs=count, prompt_logprobs=1),
        report("a", logprobs=[*of_prompt, *of_answer]),
        report("b", FULL, logprobs=[logprobs(B)] if of_answer else None),
    )
    read, *pieces = events[:-1]
    assert isinstance(read, PromptRead)
    assert read.logprobs is not None
    ids = [each and each.token_id for each in read.logprobs]
    assert ids == [None, 1, None, 3, None, 5, 6]
    assert read.logprobs[1] == TokenLogprob(1, -1.0, {90: -0.1})
    found = [each.token_id for piece in pieces for each in piece.logprobs]  # type: ignore[union-attr]
    assert found == ([] if count is None else [A, B])


def test_log_probabilities_end_where_the_answer_does() -> None:
    events = received(
        answers(logprobs=0, stop="."),
        report("a.b", logprobs=[logprobs(A), logprobs(DOT), logprobs(B)]),
    )
    (piece,) = [event for event in events if isinstance(event, Piece)]
    assert [each.token_id for each in piece.logprobs] == [A, DOT]


def test_the_answers_of_a_request_are_apart() -> None:
    made = answers(2, stop=".")
    first = made.receive(0, [report("a")], 11.0)
    second = made.receive(1, [report("b")], 12.0)
    assert [type(event) for event in first] == [PromptRead, Piece]
    assert [type(event) for event in second] == [Piece]
    made.receive(0, [report(".")], 13.0)
    assert made.is_finished(0)
    assert not made.are_finished
    last = made.receive(1, [report("b", FULL)], 14.0)
    assert end_of(last).choice == 1
    assert end_of(last).completion_tokens == 2
    assert made.are_finished


def test_a_failed_request_raises() -> None:
    made = answers()
    received(made, report("a", ACTIVE))
    with pytest.raises(EngineError, match="the model failed"):
        received(made, report("", FAILED))


def test_the_whole_vocabulary_is_returned_in_order() -> None:
    events = received(
        answers(logprobs=-1),
        report("a", ENDED, logprobs=[logprobs(A, 90, 91, 92)]),
    )
    (piece,) = (event for event in events if isinstance(event, Piece))
    assert list(piece.logprobs[0].top) == [90, 91, 92, A]


CALL = '{"name": "look", "parameters": {"n": 1}}'


def calling(*, parallel: bool = True, **sampling: Any) -> Answers:
    use = ToolUse(names=["look"], parallel=parallel)
    return answers(tool_use=use, **sampling)


def test_a_call_comes_between_the_pieces_that_have_its_tokens() -> None:
    made = calling()
    events = received(made, report(CALL[:35]), report(CALL[35:]), report("", ENDED))
    assert [type(event) for event in events] == [
        *(PromptRead, Piece, ToolCallStarted, ToolCallArguments),
        *(Piece, ToolCallArguments, ToolCallEnded, Finished),
    ]
    assert text_of(events) == ""
    assert tokens_in(events) == tokens_of(CALL)
    arguments = [e.text for e in events if isinstance(e, ToolCallArguments)]
    assert "".join(arguments) == '{"n": 1}'
    assert end_of(events).reason == "tool_calls"


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (CALL, ENDED, "tool_calls"),
        (CALL, FULL, "tool_calls"),
        (CALL + "; ", FULL, "tool_calls"),
        (CALL + " Done", ENDED, "tool_calls"),
        (CALL + " Done", FULL, "length"),
        (CALL + '; {"nam', FULL, "length"),
        (CALL[:-3], FULL, "length"),
        (CALL[:-3], ENDED, "stop"),
        ("Hello", ENDED, "stop"),
        ("Hello", FULL, "length"),
    ],
)
def test_an_answer_ends_to_have_its_calls_made_unless_a_limit_cuts_it(
    text: str, status: Any, reason: str
) -> None:
    assert end_of(received(calling(), report(text, status))).reason == reason


def test_text_that_was_held_back_comes_in_the_end() -> None:
    events = received(calling(), report(CALL[:-3]), report("", ENDED))
    assert text_of(events) == CALL[:-3]
    assert tokens_in(events) == tokens_of(CALL[:-3])


@pytest.mark.parametrize("reports", [[CALL + "; " + CALL], [CALL, "; ", CALL]])
def test_the_only_call_ends_the_answer_at_its_last_token(reports: list[str]) -> None:
    made = calling(parallel=False)
    events = received(made, *map(report, reports))
    assert tokens_in(events) == tokens_of(CALL)
    assert sum(isinstance(event, ToolCallEnded) for event in events) == 1
    end = end_of(events)
    assert (end.reason, end.stop) == ("tool_calls", None)
    assert end.completion_tokens == len(tokens_of(CALL))
    assert made.are_finished


def test_several_reports_of_a_call_make_one_event_of_each_kind() -> None:
    events = calling().receive(0, [report(each) for each in CALL], 11.0)
    found = [type(event) for event in events if isinstance(event, ToolCallEvent)]
    assert found == [ToolCallStarted, ToolCallArguments, ToolCallEnded]


def test_a_stop_string_in_a_call_makes_text_of_it() -> None:
    events = received(calling(stop=["1"]), report(CALL))
    assert text_of(events) == CALL.partition("1")[0]
    assert end_of(events).reason == "stop"
