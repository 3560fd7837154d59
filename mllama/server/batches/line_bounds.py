"""Bounds of a batch's lines: those of requests' bodies, before a line is parsed."""

from __future__ import annotations

from mllama.batch.lines import LineError
from mllama.server.bodies.parsing import bound_steps
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.detached_strings import detach


def bound_error(text: bytes) -> LineError | None:
    """Returns why parsing a line would take too long or too much memory, or None.

    Args:
        text: The line.
    """
    try:
        for _ in bound_steps(detach(text).text, "line"):
            pass
    except RequestRejected as error:
        return LineError("invalid_json_line", str(error))
    return None
