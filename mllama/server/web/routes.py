"""Routes of the page: itself at ``/``, and the files that it needs."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from types import MappingProxyType
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from mllama.server.paths import path_below_root
from mllama.server.web.requests import FILES_PATH, wants_page

_MEDIA_TYPES: Final = MappingProxyType(
    {
        "html": "text/html; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml",
    }
)

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # Pictures that the user chose, which never come from elsewhere.
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No script can turn text into markup.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_HEADERS: Final = MappingProxyType(
    {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        # After an update of the server all files must be of the same version.
        "Cache-Control": "no-cache",
    }
)


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Attributes:
        content: Its bytes.
        media_type: Its content type.
    """

    content: bytes
    media_type: str

    @cached_property
    def etag(self) -> str:
        """The validator by which browsers ask whether it has changed."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    def below(self, root_path: str) -> PageFile:
        """Returns the page with URLs of its files that have a root path.

        Without one they are relative, and lead to the right place below the path of any
        proxy, but only from an address that ends with a slash.

        Args:
            root_path: The path under which a proxy has the server; may be empty.
        """
        if not root_path:
            return self
        start = f'"{html.escape(root_path)}{FILES_PATH}/'
        content = self.content.decode().replace(f'"{FILES_PATH[1:]}/', start)
        return replace(self, content=content.encode())

    def response(self, request: Request) -> Response:
        """Returns the file, or a 304 if the browser has it."""
        headers = {**_HEADERS, "ETag": self.etag, "Vary": "Accept"}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def page_files() -> Mapping[str, PageFile]:
    """Reads the page's files from the package, by their names."""
    files = {}
    for entry in resources.files("mllama.server.web").joinpath("page").iterdir():
        suffix = entry.name.rpartition(".")[2]
        if suffix in _MEDIA_TYPES:
            files[entry.name] = PageFile(entry.read_bytes(), _MEDIA_TYPES[suffix])
    return files


class _PageRoute(Route):
    """Matches browsers only; other clients get Ollama's greeting at this path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Returns whether the request is one for the page."""
        is_wanted = (
            scope["type"] == "http"
            and path_below_root(scope) == "/"
            and wants_page(scope["method"], Headers(scope=scope))
        )
        if not is_wanted:
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}


def add_page_routes(app: FastAPI) -> None:
    """Adds the page's routes, which must come before others of the same path.

    Args:
        app: The application.
    """
    files = page_files()
    index = files["index.html"]

    async def page(request: Request) -> Response:
        return index.below(request.scope.get("root_path", "")).response(request)

    async def file(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return found.response(request)

    app.router.routes.append(_PageRoute("/", page, include_in_schema=False))
    app.router.routes.append(
        Route(f"{FILES_PATH}/{{name}}", file, include_in_schema=False)
    )
