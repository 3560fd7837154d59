"""The error of a request that the server rejects."""

from __future__ import annotations


class RequestRejected(Exception):
    """A request that the server rejects.

    Attributes:
        status: HTTP status of the response.
        param: Path of the wrong field, such as ``messages[0].content``, or None.
        code: OpenAI's word for the kind of error, or None.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        code: str | None = None,
        status: int = 400,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status
