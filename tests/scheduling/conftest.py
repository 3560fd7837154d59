"""A roomy scheduler that says what is right, and one with little room for images.

What is right is computed when it is asked for, in the other also before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from .harness import Scheduled

BATCH = 8
PICTURES = 12


@pytest.fixture(scope="session")
def roomy() -> Scheduled:
    """With room for every image of the tests."""
    return Scheduled(max_batch_size=BATCH, image_cache_size="16MiB", overlaps=False)


@pytest.fixture(scope="session")
def tight(roomy: Scheduled) -> Scheduled:
    """With room for three images of one page each."""
    page = roomy.images.storage.params.bytes_per_block
    return Scheduled(max_batch_size=BATCH, image_cache_size=4 * page)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Patterns of squares, of one to four tiles."""
    sizes = [(120, 120), (60, 60), (240, 60), (60, 110)]
    made = []
    for number in range(PICTURES):
        generator = np.random.default_rng(number)
        grains = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(grains)
        made.append(image.resize(sizes[number % 4], Image.Resampling.NEAREST))
    return made


def ask(*parts: Any) -> list[dict[str, Any]]:
    """A user's message of texts and pictures in this order."""
    return [{"role": "user", "content": [content(part) for part in parts]}]


def content(part: Any) -> dict[str, Any]:
    """A part of a message."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image", "image": part}
