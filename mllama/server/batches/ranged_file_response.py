"""A response with a file, or with the parts of it that a client asks for."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send


class RangedFileResponse(FileResponse):
    """A file's content; a wrong ``Range`` has an error in the form of the API.

    Args:
        path: The file.
        missing: The error if there is no such file, which another request may delete
            meanwhile.
        options: Others of :class:`~starlette.responses.FileResponse`.
    """

    def __init__(self, path: Any, *, missing: Exception, **options: Any) -> None:
        super().__init__(path, **options)
        self._missing = missing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the file.

        Raises:
            HTTPException: If the request's ``Range`` can't be read, or lies outside of
                the file.
            Exception: The error of a file that is missing.
        """
        start: Message | None = None
        has_begun = False

        async def send_file(message: Message) -> None:
            nonlocal start, has_begun
            if message["type"] == "http.response.start":
                # Starlette answers a wrong range with a line of text.
                if message["status"] >= 400:
                    raise _range_error(message)
                # Starlette sends it before it opens the file.
                start = message
                return
            if start is not None:
                first, start, has_begun = start, None, True
                await send(first)
            await send(message)

        try:
            await super().__call__(scope, receive, send_file)
        # RuntimeError is Starlette's for a file that isn't there before it is opened.
        except (FileNotFoundError, RuntimeError) as error:
            if has_begun:
                raise
            raise self._missing from error


def _range_error(start: Message) -> HTTPException:
    status: int = start["status"]
    if status != 416:
        return HTTPException(status, "`Range` must be like `bytes=0-1023`.")
    found = MutableHeaders(raw=start["headers"]).get("content-range", "")
    size = found.rpartition("/")[2]
    return HTTPException(
        status,
        f"`Range` lies outside of the file, which has {size} bytes.",
        {"Content-Range": found},
    )
