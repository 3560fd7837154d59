"""``POST /reset_prefix_cache`` of a front, for all replicas."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import PlainTextResponse, Response

from mllama.errors import EngineUnavailableError
from mllama.server.access.policy import ADMIN_PATHS

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("mllama")

_TIMEOUT_SECONDS: Final = 60.0
"""How long the replicas may take to answer."""


def add_prefix_cache_route(app: FastAPI, replicas: DeploymentHandle[Any]) -> None:
    """Adds the route, which only the administrator's key opens.

    Args:
        app: The application.
        replicas: The handle of the deployment.
    """

    async def reset_prefix_cache() -> Response:
        """Has all replicas empty their prefix caches."""
        try:
            results = await replicas.broadcast("reset_prefix_cache").results_async(
                timeout_s=_TIMEOUT_SECONDS, return_exceptions=True
            )
        except Exception as error:
            raise EngineUnavailableError(
                "the replicas have not answered; try again"
            ) from error
        failures = [each for each in results if isinstance(each, Exception)]
        if failures:
            logger.warning("a prefix cache was not emptied: %s", failures[0])
            raise EngineUnavailableError(
                f"the prefix caches of {len(failures)} of {len(results)} replicas were "
                "not emptied; try again"
            )
        return PlainTextResponse("Success")

    for path in ADMIN_PATHS:
        app.add_api_route(
            path, reset_prefix_cache, methods=["POST"], include_in_schema=False
        )
