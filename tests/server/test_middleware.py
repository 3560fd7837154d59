"""The middleware validates bodies and adds image tokens to the usage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from mllama.server.inline_images import InlineImages
from mllama.server.middleware import RequestValidationMiddleware
from mllama.server.request_validation import CHAT, ServerCapabilities

CAPABILITIES = ServerCapabilities(model_name="served", vocabulary=100, greedy=True)
USAGE = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}}


class Route:
    """A route behind the middleware that records the body and sends given parts."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.body: Any = None
        self.after: Message | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body = (await receive()).get("body")
        self.after = await receive()
        length = str(sum(map(len, self.parts))).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", length)],
            }
        )
        for number, part in enumerate(self.parts, 1):
            await send(
                {
                    "type": "http.response.body",
                    "body": part,
                    "more_body": number < len(self.parts),
                }
            )


def request(
    route: Any,
    body: Any,
    *,
    path: str = CHAT,
    method: str = "POST",
    images: int = 0,
    failure: Exception | None = None,
    images_apart: InlineImages | None = None,
) -> tuple[int, list[bytes], dict[bytes, bytes]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    half = len(raw) // 2
    incoming = [
        {"type": "http.request", "body": raw[:half], "more_body": True},
        {"type": "http.request", "body": raw[half:], "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []
    counts = {"id": images}

    async def receive() -> Message:
        if failure is not None:
            raise failure
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "path": path,
        "method": method,
        "headers": [],
        "state": {"request_id": "id"},
    }
    app = RequestValidationMiddleware(
        route,
        capabilities=lambda: CAPABILITIES,
        image_tokens=counts,
        inline_images=images_apart or InlineImages(),
    )
    asyncio.run(app(scope, receive, send))
    if isinstance(route, Route) and route.after is not None:
        assert counts == {}, "the entry outlives its request"
    start, *rest = sent
    return start["status"], [m["body"] for m in rest], dict(start["headers"])


def error_of(bodies: Iterable[bytes]) -> Any:
    return json.loads(b"".join(bodies))["error"]


def test_a_valid_body_and_the_disconnect_reach_the_route() -> None:
    route = Route(b"{}")
    body = {"model": "served", "messages": []}
    request(route, body)
    assert json.loads(route.body) == body
    assert route.after == {"type": "http.disconnect"}


def test_a_published_name_reaches_the_route_as_the_served_name() -> None:
    route = Route(b"{}")
    request(route, {"model": "meta-llama/Llama-3.2-11B-Vision-Instruct"})
    assert json.loads(route.body)["model"] == "served"


def test_a_rejected_request_gets_an_openai_error_and_never_reaches_the_route() -> None:
    route = Route(b"{}")
    status, bodies, _ = request(route, {"model": "served", "n": 2})
    assert status == 400
    assert error_of(bodies)["param"] == "n"
    assert error_of(bodies)["type"] == "invalid_request_error"
    assert route.body is None


def test_an_unknown_model_gives_404() -> None:
    status, bodies, _ = request(Route(), {"model": "gpt-4o"})
    assert (status, error_of(bodies)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("body", [b"{nope", b"[1]", b""])
def test_a_body_that_is_not_an_object_is_passed_to_max(body: bytes) -> None:
    route = Route(b"{}")
    request(route, body)
    assert route.body == body


def test_a_body_over_the_limit_gives_413() -> None:
    failure = HTTPException(413, "too large")
    status, bodies, _ = request(Route(), {}, failure=failure)
    assert status == 413
    assert error_of(bodies)["message"] == "too large"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/audio/speech"])
def test_routes_for_other_kinds_of_models_give_404(path: str) -> None:
    status, bodies, _ = request(Route(), {}, path=path)
    assert (status, error_of(bodies)["type"]) == (404, "not_found_error")


def test_other_paths_are_not_validated() -> None:
    route = Route(b"[]")
    status, bodies, _ = request(route, {"n": 2}, path="/v1/models", method="GET")
    assert (status, bodies) == (200, [b"[]"])


def test_usage_has_the_image_tokens_of_a_response() -> None:
    answer = json.dumps({"usage": USAGE}).encode()
    _, bodies, headers = request(Route(answer), {"model": "served"}, images=34)
    (body,) = bodies
    details = json.loads(body)["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 0, "image_tokens": 34}
    assert headers[b"content-length"] == str(len(body)).encode()


def test_usage_has_the_image_tokens_of_a_stream() -> None:
    event = b"data: " + json.dumps({"usage": USAGE}).encode() + b"\n\n"
    parts = (b'data: {"choices": []}\n\n', event, b"data: [DONE]\n\n")
    _, bodies, _ = request(Route(*parts), {"model": "served"}, images=34)
    assert (bodies[0], bodies[2]) == (parts[0], parts[2])
    assert bodies[1].startswith(b"data: {")
    assert bodies[1].endswith(b"\n\n")
    usage = json.loads(bodies[1].removeprefix(b"data: "))["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] == 34


def test_an_answer_that_quotes_the_usage_field_is_unchanged() -> None:
    quoted = {"content": '"prompt_tokens_details"', "usage": None}
    answer = json.dumps(quoted).encode()
    _, bodies, _ = request(Route(answer), {"model": "served"}, images=34)
    assert bodies == [answer]


def test_a_long_image_is_kept_apart_until_the_request_ends() -> None:
    url = "data:image/png;base64," + "A" * 100_000
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "served", "messages": [{"role": "user", "content": content}]}
    apart = InlineImages()
    route = Route(b"{}")
    request(route, body, images_apart=apart)
    assert len(route.body) < 1000
    assert len(apart) == 0


@pytest.mark.parametrize("place", ["text", "both"])
def test_a_text_that_looks_like_a_long_image_stays_a_text(place: str) -> None:
    url = "data:image/png;base64," + "A" * 100_000
    content: list[Any] = [{"type": "text", "text": url}]
    if place == "both":
        content.append({"type": "image_url", "image_url": {"url": url}})
    body = {"model": "served", "messages": [{"role": "user", "content": content}]}
    route = Route(b"{}")
    request(route, body)
    assert json.loads(route.body) == body
