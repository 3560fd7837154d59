"""Which requests are for the page."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers

FILES_PATH: Final = "/page"
"""The path below which the page's files lie."""


def wants_page(method: str, headers: Headers) -> bool:
    """Returns True if a request for ``/`` comes from a browser that shows a page.

    Ollama's clients accept anything or JSON there, and get plain text.
    """
    if method != "GET":
        return False
    accepted = headers.get("accept", "").lower().split(",")
    return any(each.partition(";")[0].strip() == "text/html" for each in accepted)


def is_page_request(path: str, method: str, headers: Headers) -> bool:
    """Returns True if a request is for the page or one of its files.

    Args:
        path: Its path below the root path.
        method: Its method.
        headers: Its headers.
    """
    if path == "/":
        return wants_page(method, headers)
    return method in ("GET", "HEAD") and path.startswith(f"{FILES_PATH}/")
