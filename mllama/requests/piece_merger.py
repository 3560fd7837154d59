"""Merges pieces of answers, so that a stream has fewer and larger ones."""

from __future__ import annotations

from mllama.requests.events import Event, Finished, Piece


class PieceMerger:
    """Holds pieces back until they have enough tokens.

    The first piece of an answer that has text is not held back, and its last one
    neither.

    Args:
        least: Tokens of a piece, at least.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._held: dict[int, Piece] = {}
        self._begun: set[int] = set()

    def push(self, event: Event) -> list[Event]:
        """Adds an event and returns those that are due."""
        if isinstance(event, Finished):
            held = self._held.pop(event.choice, None)
            return [event] if held is None else [held, event]
        if not isinstance(event, Piece):
            return [event]
        held = self._held.pop(event.choice, None)
        piece = event if held is None else _joined(held, event)
        is_first = event.choice not in self._begun
        if piece.text and (is_first or len(piece.token_ids) >= self._least):
            self._begun.add(event.choice)
            return [piece]
        self._held[event.choice] = piece
        return []


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece(
        first.choice,
        first.text + second.text,
        [*first.token_ids, *second.token_ids],
        [*first.logprobs, *second.logprobs],
    )
