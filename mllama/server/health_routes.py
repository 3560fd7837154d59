"""Routes by which a supervisor of services asks how the server is."""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol

from fastapi import FastAPI
from pydantic import BaseModel

from mllama.errors import EngineUnavailableError

_READY_PATHS: Final = ("/health", "/health/ready", "/ping")
"""``/health`` is what most programs ask, ``/ping`` is SageMaker's name of it."""


class Health(BaseModel):
    """How the server is."""

    status: Literal["live", "ready"]


class Readiness(Protocol):
    """Whether requests can be answered."""

    @property
    def is_ready(self) -> bool:
        """Returns True if they can."""
        ...

    def unavailable(self) -> EngineUnavailableError:
        """Returns why they can't."""
        ...


class _AlwaysReady:
    """An engine that can't fail, or says so by itself."""

    is_ready = True

    def unavailable(self) -> EngineUnavailableError:
        """Returns why requests can't be answered."""
        raise AssertionError


ALWAYS_READY: Final[Readiness] = _AlwaysReady()


def add_health_routes(app: FastAPI, readiness: Readiness) -> None:
    """Adds the routes, which need no key.

    ``/health/live`` is answered as long as the server's process works, the others only
    while requests are.

    Args:
        app: The application.
        readiness: Whether requests can be answered.
    """

    async def live() -> Health:
        """Says that the server's process works."""
        return Health(status="live")

    async def ready() -> Health:
        """Says whether requests can be answered."""
        if not readiness.is_ready:
            raise readiness.unavailable()
        return Health(status="ready")

    unavailable: dict[int | str, dict[str, Any]] = {
        503: {"description": "The model can't answer now"}
    }
    for path in ("/health/live", *_READY_PATHS):
        handler = live if path == "/health/live" else ready
        app.add_api_route(
            path,
            handler,
            name=path,
            summary="Live" if handler is live else "Ready",
            responses={} if handler is live else unavailable,
        )
        # `wget --spider` and some balancers ask this way.
        app.add_api_route(
            path, handler, methods=["HEAD"], name=path, include_in_schema=False
        )
