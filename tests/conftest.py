"""What every test needs before it starts."""

from __future__ import annotations

import pytest

from mllama.child_environment import restore_child_environment


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Keeps child Pythons in the virtual environment; some tests import MAX alone."""
    restore_child_environment()
