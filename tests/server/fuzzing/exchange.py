"""A request as bytes, what came back, and a text from which it can be sent again."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Exchange:
    """A request.

    Attributes:
        path: The request's target: a path with a query.
        headers: Its headers, in order, some perhaps several times.
        leaves_after: Parts of the answer after which the client goes away: none, or
            -1 for amid the body of the request; None if it stays.
    """

    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""
    leaves_after: int | None = None

    @property
    def sent_bytes(self) -> int:
        """Returns how much of the body the client sends."""
        return len(self.body) // (2 if self.leaves_after == -1 else 1)

    def reproducer(self) -> str:
        """Returns a text from which :meth:`parse` makes the request again."""
        values = [
            self.method,
            self.path,
            self.headers,
            base64.b64encode(self.body).decode(),
            self.leaves_after,
        ]
        packed = zlib.compress(json.dumps(values).encode(), 9)
        return base64.b85encode(packed).decode()

    @classmethod
    def parse(cls, reproducer: str) -> Exchange:
        """Returns the request of a reproducer."""
        packed = base64.b85decode(reproducer)
        method, path, headers, body, leaves = json.loads(zlib.decompress(packed))
        pairs = tuple((name, value) for name, value in headers)
        return cls(method, path, pairs, base64.b64decode(body), leaves)

    def shown(self) -> str:
        """Returns the request as a person reads it, cut to a page."""
        head = "\n".join(f"{name}: {value}" for name, value in self.headers)
        body = self.body[:2000].decode(errors="backslashreplace")
        return f"{self.method} {self.path}\n{head}\n\n{body}"


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        is_whole: Whether the client stayed to the end.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = True

    @property
    def kind(self) -> str:
        """Returns the content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        return json.loads(self.body)
