"""How many tokens were guessed, and how many of the guesses were right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GuessCounts:
    """What was guessed since the start.

    Attributes:
        drafts: How often the guesses for a request were checked.
        proposed: Guessed tokens that were checked.
        accepted: Those of them that were right.
    """

    drafts: int = 0
    proposed: int = 0
    accepted: int = 0

    def __add__(self, other: GuessCounts) -> GuessCounts:
        """Returns both together."""
        return GuessCounts(
            self.drafts + other.drafts,
            self.proposed + other.proposed,
            self.accepted + other.accepted,
        )
