"""The result of a test: a verdict for the reader, and figures for a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EQUAL = "equal"
NEEDS_GPU = "needs a GPU"


@dataclass(frozen=True)
class Result:
    """The result of a test.

    Attributes:
        test: The test's name, T1 to T7.
        verdict: A line: :data:`EQUAL`, :data:`NEEDS_GPU` or what is wrong.
        figures: All figures, as JSON values.
    """

    test: str
    verdict: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, test: str, figures: Mapping[str, Any], wrong: Sequence[str]) -> Result:
        """Returns a result whose verdict lists what is wrong, if anything is."""
        return cls(test, "; ".join(wrong) or EQUAL, figures)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values, without the name."""
        return {"verdict": self.verdict, "figures": dict(self.figures)}
