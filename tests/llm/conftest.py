"""The demo model, loaded once for all tests of the Python API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image, ImageDraw

from mllama import LLM

BATCH = 4


@pytest.fixture(scope="session")
def llm() -> Iterator[LLM]:
    with LLM(devices="cpu", max_batch_size=BATCH) as model:
        yield model


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """A square one, and a wide one that takes several tiles."""
    made = []
    for size in ((200, 200), (500, 240)):
        image = Image.new("RGB", size, "white")
        ImageDraw.Draw(image).ellipse((40, 40, 140, 140), fill="red")
        made.append(image)
    return made
