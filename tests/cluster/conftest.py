"""The cluster that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .shared_ray import SharedRay, started_ray


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[SharedRay]:
    """Returns a cluster of this machine."""
    with started_ray() as ray:
        yield ray
