"""Reads a request's body: once, strictly, and without its pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, Final, TypeVar

from starlette.requests import Request

from mllama.server.arrival.body import arrived_body
from mllama.server.arrival.shared_memory import SMALL_BODY, memory_of
from mllama.server.arrival.strings import BodyStrings
from mllama.server.bodies.parsing import json_steps, parse_body, parse_json
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.bodies.schema import Body
from mllama.server.detached_strings import DetachedBody, detach
from mllama.server.turns import in_turns
from mllama.utils.threads import in_thread

Model = TypeVar("Model", bound=Body)

_LARGE: Final = 4 << 20
"""Bytes of a body that are searched in a thread."""


async def read_json(request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request's body.

    Raises:
        RequestRejected: If it is not one.
    """
    raw = await arrived_body(request)
    if len(raw) <= SMALL_BODY:
        return parse_json(raw)
    return await in_turns(json_steps(raw))


async def read_body(request: Request, model: type[Model]) -> Model:
    """Returns the body of a request.

    Raises:
        RequestRejected: If it is not valid.
    """
    return parse_body(model, await read_json(request))


async def read_body_with_images(
    request: Request, model: type[Model], sources: Callable[[Model], Iterable[str]]
) -> tuple[Model, BodyStrings]:
    """Returns the body of a request that may contain pictures.

    Args:
        request: The request.
        model: The body's model.
        sources: Returns the URLs and strings of images in a body.

    Returns:
        The body, and the strings in it that were detached, by the names that it has in
        their place.

    Raises:
        RequestRejected: If it is not valid.
    """
    raw = await arrived_body(request)
    memory = memory_of(request)
    detached = await _detached(raw)
    if detached.strings:
        try:
            body = await _parsed(model, detached.text)
        except RequestRejected:
            pass  # Its message must not quote a name.
        else:
            # Each name stands in the text once.
            if detached.strings.keys() <= set(sources(body)):
                text_bytes = len(detached.text)
                return body, BodyStrings(detached.strings, memory, text_bytes)
    # A long string in another place, such as in a text, is what it is.
    body = await _parsed(model, raw)
    return body, BodyStrings({}, memory, len(raw))


async def _parsed(model: type[Model], text: bytes | bytearray) -> Model:
    if len(text) <= SMALL_BODY:
        return parse_body(model, parse_json(text))

    def steps() -> Generator[None, None, Model]:
        value = yield from json_steps(text)
        body = parse_body(model, value)
        yield
        return body

    return await in_turns(steps())


async def _detached(raw: bytearray) -> DetachedBody:
    # The search of a large body would hold the event loop.
    if len(raw) > _LARGE:
        return await in_thread(partial(detach, raw))
    return detach(raw)
