"""What every test needs before it starts, and the demo model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from mllama import LLM
from mllama.utils.child_processes import restore_child_environment

BATCH = 4
"""Requests that the demo model of :func:`llm` works on together."""

# Two processes share the cores: how long an example takes says nothing.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Keeps child Pythons in the virtual environment; some tests import MAX alone."""
    restore_child_environment()


@pytest.fixture(scope="session")
def llm() -> Iterator[LLM]:
    """The demo model, loaded once by each process that runs tests."""
    with LLM(devices="cpu", max_batch_size=BATCH) as model:
        yield model
