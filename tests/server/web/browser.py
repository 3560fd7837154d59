"""Playwright and Debian's Chromium, for tests that show the page in a real browser.

Without Playwright, a module that imports from this one is skipped.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import NoReturn

import pytest

REQUIRED = "MLLAMA_TESTS_NEED_CHROMIUM"
"""The variable with which a missing browser is a failure; ``.ci/run`` sets it."""


def missing(what: str) -> NoReturn:
    """Skips the tests of the page, or fails if they have to run."""
    reason = f"the page's tests need {what}"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


try:
    from playwright.sync_api import (
        Browser,
        FilePayload,
        Locator,
        Page,
        Playwright,
        expect,
        sync_playwright,
    )
except ImportError:
    missing("Playwright (pip install -e '.[dev]')")

__all__ = [
    "COUNT",
    "Browser",
    "FilePayload",
    "Locator",
    "Page",
    "Playwright",
    "expect",
    "launch",
    "sync_playwright",
    "wait_until",
]

SECONDS = 30
"""Time limit of whatever a test waits for; the test machine may be busy."""

COUNT = """async (store) => {
    const { name } = (await indexedDB.databases())[0];
    const opened = await new Promise((resolve) => {
        const request = indexedDB.open(name);
        request.onsuccess = () => resolve(request.result);
    });
    return new Promise((resolve) => {
        const request = opened.transaction(store).objectStore(store).count();
        request.onsuccess = () => resolve(request.result);
    });
}"""
"""Returns how many chats, pictures or maps the browser keeps."""


def launch(playwright: Playwright) -> Browser:
    """Starts Chromium."""
    path = shutil.which("chromium")
    if path is None:
        missing("Chromium (Debian: apt-get install chromium)")
    # Root can't use Chromium's sandbox.
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


def wait_until(page: Page, script: str) -> None:
    """Waits until an asynchronous script returns something true."""
    end = time.monotonic() + SECONDS
    while not page.evaluate(script):
        assert time.monotonic() < end, script
        page.wait_for_timeout(50)
