"""Extracts what a picture shows into a Pydantic model.

    python examples/extract_from_a_picture.py

The answer always fits the model: a grammar is made of its JSON schema.  What the demo
model fills in is another matter, as it learned to answer in sentences; a larger model
reads receipts and forms in this way.
"""

from typing import Literal

from pydantic import BaseModel, Field

from mllama import LLM
from mllama.demo_model import PICTURES_PATH


class Shape(BaseModel):
    """A shape in the picture."""

    kind: Literal["circle", "cross", "square", "star", "triangle"]
    color: Literal["blue", "green", "purple", "red", "white", "yellow"]


class Scene(BaseModel):
    """What the picture shows."""

    shapes: list[Shape] = Field(min_length=1, max_length=3)
    has_digit: bool


with LLM() as llm:
    output = llm.generate(
        "What is in this picture?",
        [PICTURES_PATH / "shapes.png"],
        response_format=Scene,
    )

scene = Scene.model_validate_json(output.text)
for shape in scene.shapes:
    print(f"{shape.color} {shape.kind}")
print("with a digit" if scene.has_digit else "without a digit")
