"""Schedulers: one with a large image cache for reference answers, others with a small.

The reference scheduler runs each step when the scheduler asks for it; those under test
overlap steps, and one of them guesses tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllama.runtime.speculation import speculation as speculation_module

from .harness import WHOLE, Scheduled

BATCH = 8
PICTURES = 12


@pytest.fixture(scope="session")
def roomy() -> Scheduled:
    """The reference, whose cache has room for every image of the tests."""
    return Scheduled(max_batch_size=BATCH, image_cache_size="16MiB", overlaps=False)


@pytest.fixture(scope="session")
def tight(roomy: Scheduled) -> Scheduled:
    """The scheduler under test, whose cache has room for three images of one page."""
    page = roomy.image_cache.storage.params.bytes_per_block
    return Scheduled(max_batch_size=BATCH, image_cache_size=4 * page, speculate="off")


@pytest.fixture(scope="session")
def speculating(roomy: Scheduled) -> Scheduled:
    """A scheduler whose steps check guesses, with the cache of ``tight``."""
    page = roomy.image_cache.storage.params.bytes_per_block
    return Scheduled(
        max_batch_size=BATCH, image_cache_size=4 * page, speculate="lookup"
    )


@pytest.fixture
def guessing(
    speculating: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scheduled]:
    """The same, whatever other tests have made it guess."""
    # How many steps go without a look for guesses depends on the machine's speed.
    monkeypatch.setattr(speculation_module, "_MOST_SKIPPED", 0)
    speculation = speculating.speculation
    assert speculation is not None
    kept = vars(speculation).copy()
    yield speculating
    for name in ("_proposer", "budget", "_observes"):
        setattr(speculation, name, kept[name])
    speculating.chunk_size(WHOLE)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Patterns of squares that take one to four tiles."""
    sizes = [(120, 120), (60, 60), (240, 60), (60, 110)]
    made = []
    for number in range(PICTURES):
        generator = np.random.default_rng(number)
        grains = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(grains)
        made.append(image.resize(sizes[number % 4], Image.Resampling.NEAREST))
    return made


def ask(*parts: Any) -> list[dict[str, Any]]:
    """Returns a user's message of texts and pictures in the given order."""
    return [{"role": "user", "content": [content(part) for part in parts]}]


def content(part: Any) -> dict[str, Any]:
    """Returns a text or a picture as a part of a message."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image", "image": part}
