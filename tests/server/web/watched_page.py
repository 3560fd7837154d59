"""Sees what a page must not do."""

from __future__ import annotations

from typing import Any, Protocol

from .browser import Page


class OpenPage(Protocol):
    """Opens a page that is watched; options are those of a browser's context."""

    def __call__(self, url: str, **options: Any) -> Page: ...


def watch(page: Page) -> list[str]:
    """Collects errors of scripts, violations of the policy, and foreign requests."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())

    def note(message: str) -> None:
        if "Content Security Policy" in message or "Trusted" in message:
            found.append(message)

    page.on("console", lambda message: note(message.text))

    def check(url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "blob:", "data:")):
            found.append(url)

    page.on("request", lambda request: check(request.url))
    return found
