"""Images for the tests of the Python API."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """A square image, and a wide one that takes several tiles."""
    made = []
    for size in ((200, 200), (500, 240)):
        image = Image.new("RGB", size, "white")
        ImageDraw.Draw(image).ellipse((40, 40, 140, 140), fill="red")
        made.append(image)
    return made
