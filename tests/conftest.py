"""What every test needs before it starts."""

from __future__ import annotations

import pytest
from hypothesis import settings

from mllama.utils.child_processes import restore_child_environment

# Two processes share the cores: how long an example takes says nothing.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Keeps child Pythons in the virtual environment; some tests import MAX alone."""
    restore_child_environment()
