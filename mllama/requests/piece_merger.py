"""Merges pieces of answers, so that a stream has fewer and larger ones."""

from __future__ import annotations

from dataclasses import replace

from mllama.requests.events import (
    Accepted,
    AnswerAttention,
    Event,
    Finished,
    Piece,
    PromptRead,
    ToolCallArguments,
    ToolCallEvent,
)

_Held = Piece | ToolCallEvent


class PieceMerger:
    """Holds pieces of text and of arguments back until they have enough tokens.

    The first text of an answer is not held back, nor the name and the end of a call,
    and neither is an answer's end.

    Args:
        least: Tokens of a piece, at least.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._held: dict[int, list[_Held]] = {}
        self._begun: set[int] = set()

    def push(self, event: Event) -> list[Event]:
        """Adds an event and returns those that are due."""
        if isinstance(event, (Accepted, PromptRead, AnswerAttention)):
            return [event]
        if isinstance(event, Finished):
            return [*self._held.pop(event.choice, ()), event]
        held = self._held.setdefault(event.choice, [])
        _add(held, event)
        is_token = isinstance(event, Piece) and not event.text
        if not self._is_due(event.choice, held, is_token=is_token):
            return []
        self._begun.add(event.choice)
        del self._held[event.choice]
        return list(held)

    def _is_due(self, choice: int, held: list[_Held], *, is_token: bool) -> bool:
        """Returns True if what is held is visible, and long enough or the first.

        Args:
            choice: The answer.
            held: What is held.
            is_token: Whether the last event is a piece without text.
        """
        pieces = [event for event in held if isinstance(event, Piece)]
        others = [event for event in held if not isinstance(event, Piece)]
        if any(not isinstance(event, ToolCallArguments) for event in others):
            return True
        # The arguments that are made of a token come after its piece.
        if others and is_token:
            return False
        if not others and not any(piece.text for piece in pieces):
            return False
        tokens = sum(len(piece.token_ids) for piece in pieces)
        return tokens >= self._least or choice not in self._begun


def _add(held: list[_Held], event: _Held) -> None:
    """Adds an event, joined with those that it may be joined with."""
    last = held[-1] if held else None
    if isinstance(event, Piece) and isinstance(last, Piece):
        held[-1] = _joined(last, event)
    elif isinstance(event, ToolCallArguments) and isinstance(last, ToolCallArguments):
        held[-1] = replace(last, text=last.text + event.text)
    elif isinstance(event, Piece) and not event.text:
        _add_tokens(held, event)
    else:
        held.append(event)


def _add_tokens(held: list[_Held], piece: Piece) -> None:
    """Adds a piece without text to the last piece, which arguments may follow, or puts
    it before them."""
    for index in reversed(range(len(held))):
        event = held[index]
        if isinstance(event, Piece):
            held[index] = _joined(event, piece)
            return
    held.insert(0, piece)


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece(
        first.choice,
        first.text + second.text,
        [*first.token_ids, *second.token_ids],
        [*first.logprobs, *second.logprobs],
    )
