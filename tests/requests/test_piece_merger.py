"""Pieces are merged, and nothing of an answer is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mllama.requests.events import (
    Accepted,
    Event,
    Finished,
    Piece,
    TokenLogprob,
    ToolCallArguments,
    ToolCallEnded,
    ToolCallStarted,
)
from mllama.requests.piece_merger import PieceMerger


def merged(least: int, events: list[Event]) -> list[Event]:
    merger = PieceMerger(least)
    return [due for event in events for due in merger.push(event)]


def piece(text: str, choice: int = 0) -> Piece:
    return Piece(choice, text, [7], [TokenLogprob(7, -1.0)])


def test_the_first_text_comes_at_once_and_then_several_tokens_together() -> None:
    events = [
        Accepted(),
        *map(piece, ["", "a", "b", "c", "d", "e"]),
        Finished(0, "stop"),
    ]
    texts = [event.text for event in merged(3, events) if isinstance(event, Piece)]
    assert texts == ["a", "bcd", "e"]
    assert merged(3, events)[0] == Accepted()
    assert isinstance(merged(3, events)[-1], Finished)


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "bc"]), st.integers(0, 1))),
    st.integers(1, 5),
)
def test_answers_stay_what_they_are(parts: list[tuple[str, int]], least: int) -> None:
    events: list[Event] = [piece(text, choice) for text, choice in parts]
    events += [Finished(0, "stop"), Finished(1, "length")]
    for choice in (0, 1):
        before, after = (
            [e for e in some if isinstance(e, Piece) and e.choice == choice]
            for some in (events, merged(least, events))
        )
        assert "".join(e.text for e in after) == "".join(e.text for e in before)
        for name in ("token_ids", "logprobs"):
            assert sum(len(getattr(e, name)) for e in after) == len(before)
        assert all(len(e.token_ids) >= least for e in after[1:-1])


def test_arguments_of_calls_come_several_tokens_together() -> None:
    call = [ToolCallArguments(0, 0, each) for each in "abcdefg"]
    events: list[Event] = [
        *(piece(""), ToolCallStarted(0, 0, "id", "look"), call[0]),
        *(each for argument in call[1:] for each in (piece(""), argument)),
        *(ToolCallEnded(0, 0), piece("x"), Finished(0, "tool_calls")),
    ]
    found = merged(3, events)
    arguments = [each.text for each in found if isinstance(each, ToolCallArguments)]
    assert arguments == ["abcd", "efg"]
    tokens = [len(each.token_ids) for each in found if isinstance(each, Piece)]
    assert sum(tokens) == 8
    assert isinstance(found[1], ToolCallStarted)
    kinds = [type(each) for each in found]
    assert kinds[-3:] == [ToolCallEnded, Piece, Finished]
