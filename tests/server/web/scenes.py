"""Pictures whose shapes are at known places, as the demo model knows them."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from demo.data.drawing import item_box, render
from demo.data.questions import ask
from demo.data.scenes import Scene, random_scene

from .browser import FilePayload

QUESTION = "What is in this picture?"


def scenes(shapes: int, seed: int) -> Iterator[tuple[Scene, str]]:
    """Yields scenes of so many shapes in four tiles, and answers that describe them."""
    rng = np.random.default_rng(seed)
    while True:
        scene = random_scene(rng, layout=(2, 2))
        asked = ask(rng, scene, "describe")
        if asked is not None and len(scene.shapes) == shapes == len(scene.items):
            yield scene, asked.answer


def scene_of(answer: str, shapes: int, seed: int) -> Scene:
    """Returns the first scene that an answer describes."""
    return next(scene for scene, text in scenes(shapes, seed) if text == answer)


def picture_of(scene: Scene, name: str = "scene.png") -> FilePayload:
    """Returns the picture of a scene."""
    content = io.BytesIO()
    render(scene).save(content, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": content.getvalue()}


def box_of(scene: Scene, kind: str) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of a shape, from 0 to 1."""
    (item,) = (each for each in scene.items if each.kind == kind)
    left, top, right, bottom = item_box(item)
    width, height = scene.width, scene.height
    return left / width, top / height, right / width, bottom / height
