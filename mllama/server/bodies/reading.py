"""Reads a request's body: once, strictly, and without its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from starlette.requests import Request

from mllama.server.bodies.parsing import parse_body, parse_json
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.bodies.schema import Body
from mllama.server.detached_strings import detach

Model = TypeVar("Model", bound=Body)


async def read_body(request: Request, model: type[Model]) -> Model:
    """Returns the body of a request.

    Raises:
        RequestRejected: If it is not valid.
    """
    return parse_body(model, parse_json(await request.body()))


async def read_body_with_images(
    request: Request, model: type[Model], sources: Callable[[Model], Iterable[str]]
) -> tuple[Model, Mapping[str, memoryview]]:
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
    raw = await request.body()
    detached = detach(raw)
    if detached.strings:
        try:
            body = parse_body(model, parse_json(detached.text))
        except RequestRejected:
            pass  # Its message must not quote a name.
        else:
            # Each name stands in the text once.
            if detached.strings.keys() <= set(sources(body)):
                return body, detached.strings
    # A long string in another place, such as in a text, is what it is.
    return parse_body(model, parse_json(raw)), {}
