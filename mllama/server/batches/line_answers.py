"""Has the routes of OpenAI's API answer requests that came by no HTTP connection."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request

from mllama.batch.lines import BatchLine
from mllama.batch.results import LineAnswer
from mllama.server.arrival.shared_memory import (
    RequestMemory,
    SharedMemory,
    give_memory,
)
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.body_routes import Handler
from mllama.server.capabilities import ServerCapabilities
from mllama.server.clients import NOBODY
from mllama.server.compact_json import compact
from mllama.server.dialects.openai.routes import answering_handlers, error_form
from mllama.server.engine_client import EngineClient
from mllama.server.errors import error_report, log_failure
from mllama.server.image_fetcher import ImageFetcher


class LineAnswers:
    """Answers the lines of batches as the server's routes answer requests.

    Bodies, errors and answers are those of the routes, which read a line's body as if a
    client had sent it.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
        memory: The memory of requests in progress.
    """

    def __init__(
        self,
        engine: EngineClient,
        capabilities: ServerCapabilities,
        fetcher: ImageFetcher,
        memory: SharedMemory,
    ) -> None:
        self._memory = memory
        self._handlers: Mapping[str, Handler] = answering_handlers(
            engine, capabilities, fetcher
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """Returns the paths that lines may ask."""
        return tuple(self._handlers)

    async def __call__(self, line: BatchLine) -> LineAnswer:
        """Returns the answer to a line, or the error in its place."""
        request_id = uuid.uuid4().hex
        form = error_form(line.url)
        # The lines of all batches are those of one client.
        share = RequestMemory(self._memory, NOBODY)
        try:
            handler = self._handlers.get(line.url)
            if handler is None:
                raise RequestRejected(
                    f"A batch can't ask {line.url[:80]!r}; it can ask "
                    f"{', '.join(self._handlers)}.",
                    "url",
                    code="invalid_url",
                )
            request = _request(line, request_id)
            give_memory(request.scope, share)
            response = await handler(request)
            return LineAnswer(response.status_code, bytes(response.body), request_id)
        except Exception as error:
            log_failure(error)
            report = replace(
                error_report(error, form.field_names), request_id=request_id
            )
            content = compact(form.content(report)).encode()
            return LineAnswer(report.status, content, request_id)
        finally:
            share.release()


def _request(line: BatchLine, request_id: str) -> Request:
    """Returns a line as an HTTP request whose client never goes away."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": line.url,
        "headers": [],
        "query_string": b"",
        "state": {"request_id": request_id},
    }
    is_read = False

    async def receive() -> MutableMapping[str, Any]:
        nonlocal is_read
        if is_read:
            await asyncio.get_running_loop().create_future()
        is_read = True
        return {"type": "http.request", "body": line.body, "more_body": False}

    return Request(scope, receive)
