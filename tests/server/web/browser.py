"""Debian's Chromium, for tests that show the page in a real browser."""

from __future__ import annotations

import os
import shutil

import pytest

REQUIRED = "MLLAMA_TESTS_NEED_CHROMIUM"
"""The variable with which a missing Chromium is a failure; ``.ci/run`` sets it."""


def chromium() -> str:
    """Returns the path of Chromium, or skips the test."""
    path = shutil.which("chromium")
    if path is None:
        reason = "chromium is not installed (Debian: apt-get install chromium)"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
