"""What every test needs before it starts."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Keeps child Pythons in the virtual environment.

    Loading MAX sets these variables for child processes, behind Python's back; a child
    then starts the base interpreter, which has none of the dependencies.
    """
    for name in ("PYTHONEXECUTABLE", "PYTHONPATH"):
        if name in os.environ:
            os.putenv(name, os.environ[name])
        else:
            os.unsetenv(name)
