"""The hazards that Llama Guard 3 names, and OpenAI's categories that they are.

The hazards are those of MLCommons' taxonomy, as in the model card of Llama Guard 3 11B
Vision; the categories are those of OpenAI's ``omni-moderation`` models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

HAZARDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "S1": "violent crimes",
        "S2": "non-violent crimes",
        "S3": "sex-related crimes",
        "S4": "child sexual exploitation",
        "S5": "defamation",
        "S6": "specialized advice",
        "S7": "privacy",
        "S8": "intellectual property",
        "S9": "indiscriminate weapons",
        "S10": "hate",
        "S11": "suicide and self-harm",
        "S12": "sexual content",
        "S13": "elections",
    }
)
"""What each hazard is."""


@dataclass(frozen=True)
class Category:
    """One of OpenAI's categories.

    Attributes:
        any_of: The hazards each of which is of the category.
        with_hazard: A hazard that must be there too; None asks for no other.
        takes_images: Whether OpenAI's form lets a score of the category apply to
            images.
    """

    any_of: tuple[str, ...] = ()
    with_hazard: str | None = None
    takes_images: bool = False

    def holds(self, hazards: Mapping[str, bool]) -> bool:
        """Returns True if the hazards that are there make the category."""
        other = self.with_hazard is None or hazards.get(self.with_hazard, False)
        return other and any(hazards.get(each, False) for each in self.any_of)

    def score(self, hazards: Mapping[str, float]) -> float:
        """Returns the category's score: that of its likeliest hazard.

        Where two hazards must be there, it is the lower one of theirs.

        Args:
            hazards: The scores of hazards, from 0 to 1.
        """
        score = max((hazards.get(each, 0.0) for each in self.any_of), default=0.0)
        if self.with_hazard is None:
            return score
        return min(score, hazards.get(self.with_hazard, 0.0))


CATEGORIES: Final[Mapping[str, Category]] = MappingProxyType(
    {
        "harassment": Category(("S5",)),
        "harassment/threatening": Category(("S5",), "S1"),
        "hate": Category(("S10",)),
        "hate/threatening": Category(("S10",), "S1"),
        "illicit": Category(("S1", "S2", "S3", "S7", "S8", "S9")),
        "illicit/violent": Category(("S1", "S9")),
        "self-harm": Category(("S11",), takes_images=True),
        "self-harm/intent": Category(("S11",), takes_images=True),
        "self-harm/instructions": Category(("S11",), takes_images=True),
        "sexual": Category(("S4", "S12"), takes_images=True),
        "sexual/minors": Category(("S4",)),
        "violence": Category(("S1",), takes_images=True),
        "violence/graphic": Category(takes_images=True),
    }
)
"""OpenAI's categories.  No hazard says how graphic violence is."""
