"""The demo model: a small trained vision model, and pictures to ask it about.

The model answers questions about simple drawn scenes (colored shapes and printed
digits).  It is a genuine ``MllamaForConditionalGeneration`` in Hugging Face layout,
small enough to ship with the package, so that the server can be tried and tested
without downloading Meta's weights.

Importing this package is cheap: it loads neither torch nor the inference engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_DIRECTORY = Path(__file__).resolve().parent

MODEL_PATH: Path = _DIRECTORY / "checkpoint"
"""Directory of the shipped demo model, in Hugging Face layout."""

MODEL_NAME = "mllama-demo"
"""The demo model's name in requests to the server."""

GRAPHS_PATH: Path = _DIRECTORY / "graphs"
"""Directory of the demo model's graphs, which ``demo/compile_graphs.py`` compiles."""

REFERENCE_PATH: Path = _DIRECTORY / "reference.npz"
"""The demo model's results on a CPU, which ``demo/compute_reference.py`` computes."""

PICTURES_PATH: Path = _DIRECTORY / "pictures"
"""Directory of the shipped pictures, which ``demo/draw_pictures.py`` draws."""


class Question(NamedTuple):
    """A question about a picture and the right answer, in the model's wording."""

    text: str
    answer: str


class Picture(NamedTuple):
    """A shipped picture and the questions that ``mllama demo`` asks about it."""

    path: Path
    questions: tuple[Question, ...]


PICTURES: tuple[Picture, ...] = (
    Picture(
        PICTURES_PATH / "shapes.png",
        (
            Question("What is in this picture?", "A red star left of a blue circle."),
            Question("What color is the star?", "Red."),
            Question("Where is the circle?", "At the right."),
        ),
    ),
    Picture(
        PICTURES_PATH / "row.png",
        (
            Question("What color is the triangle?", "Purple."),
            Question(
                "What is in this picture?",
                "A green square, a purple triangle and a green square.",
            ),
            Question("How many squares are there?", "Two."),
        ),
    ),
    Picture(
        PICTURES_PATH / "digit.png",
        (
            Question("Which digit is this?", "7."),
            Question("What color is the digit?", "Yellow."),
            Question("What is to the right of the digit?", "A white cross."),
        ),
    ),
)
"""The shipped pictures, in the order in which the demo shows them.

The model answers each picture's questions correctly when they are asked one after the
other in a conversation.
"""

__all__ = [
    "GRAPHS_PATH",
    "MODEL_NAME",
    "MODEL_PATH",
    "PICTURES",
    "PICTURES_PATH",
    "REFERENCE_PATH",
    "Picture",
    "Question",
]
