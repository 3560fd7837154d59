"""How images are served on a GPU, as the self-check at start decides.

On a CPU nothing is checked: its results are compared with the reference by tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ImageMode(IntEnum):
    """How images are served on a GPU; the numbers are stable."""

    UNCHECKED = 0
    """Not at all, because the self-check has not run."""

    DIRECT = 1
    """As they are."""

    SACRIFICIAL = 2
    """Each run of the vision graph gets a first image whose result is dropped."""

    REFUSED = 3
    """Not at all, because the self-check failed."""


class CheckStage(IntEnum):
    """What the self-check found wrong; the numbers are stable."""

    NONE = 0
    WRITTEN = 1
    FINITE = 2
    NEIGHBORS = 3
    ZERO_PAGE = 4
    PLACES = 5
    CONTENT = 6
    RUNS = 7
    READING = 8
    TEXT = 9

    @property
    def description(self) -> str:
        """Returns what is wrong, as the end of a sentence."""
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    CheckStage.NONE: "nothing is wrong",
    CheckStage.WRITTEN: "keys and values of a picture were not stored",
    CheckStage.FINITE: "keys or values are not finite",
    CheckStage.NEIGHBORS: "a run wrote outside of its pictures' memory",
    CheckStage.ZERO_PAGE: "a run wrote to the page of zeros",
    CheckStage.PLACES: "equal pictures in a run got different keys and values",
    CheckStage.CONTENT: "different pictures got equal keys and values",
    CheckStage.RUNS: "a picture got different keys and values in two runs",
    CheckStage.READING: "text reads equal pictures differently",
    CheckStage.TEXT: "text without pictures comes out wrong",
}


@dataclass(frozen=True)
class ImageVerdict:
    """The result of the self-check.

    Attributes:
        mode: How images are served.
        stage: What was found wrong, with images as they are if the mode is
            ``SACRIFICIAL``.
        num_tiles: The tiles of the pictures that it was found with; 0 if none.
    """

    mode: ImageMode = ImageMode.UNCHECKED
    stage: CheckStage = CheckStage.NONE
    num_tiles: int = 0

    @property
    def refusal(self) -> str | None:
        """Returns why requests with images are refused, and the way out, as one line;
        None if they are served."""
        if self.mode is ImageMode.UNCHECKED:
            return (
                "images on a GPU need a self-check, which only this package's commands "
                "run when they start: use mllama serve, or --devices cpu"
            )
        if self.mode is ImageMode.REFUSED:
            return (
                "images are refused, because the self-check of this GPU failed at "
                f"stage {self.stage.name.lower()} ({self.stage.description}): start "
                "with --devices cpu for images"
            )
        return None

    def __str__(self) -> str:
        found = f"{self.stage.description} ({self.num_tiles} tiles)"
        return {
            ImageMode.UNCHECKED: "images are not checked",
            ImageMode.DIRECT: "images are served as they are",
            ImageMode.SACRIFICIAL: (
                f"images are served behind a sacrificial first one: without it, {found}"
            ),
            ImageMode.REFUSED: f"images are refused: {found}",
        }[self.mode]
