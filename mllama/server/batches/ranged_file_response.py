"""A response with a file, or with the parts of it that a client asks for."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send


class RangedFileResponse(FileResponse):
    """A file's content; a wrong ``Range`` has an error in the form of the API."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the file.

        Raises:
            HTTPException: If the request's ``Range`` can't be read, or lies outside of
                the file.
        """

        async def send_file(message: Message) -> None:
            # Starlette answers a wrong range with a line of text.
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise _range_error(message)
            await send(message)

        await super().__call__(scope, receive, send_file)


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
