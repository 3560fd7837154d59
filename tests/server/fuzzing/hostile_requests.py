"""Requests in every API: mostly valid, with a few things wrong."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .anthropic_bodies import COUNT, MESSAGES
from .batch_requests import BATCH, FILE_ID
from .bulky_values import (
    bulky,
    bulky_schemas,
    bulky_tools,
    runs,
    with_double_keys,
)
from .exchange import Exchange, Headers
from .grammar import MODEL, MODELS, TOOLS, rarely, some
from .hostile_values import KEYS, numbers, pictures, texts, values
from .ollama_bodies import OLLAMA_CHAT, OLLAMA_GENERATE
from .openai_bodies import CHAT, COMPLETION, OPENAI_MESSAGES, OPENAI_PART, RESPONSES

BODIES: Mapping[str, SearchStrategy[Any]] = {
    "/v1/chat/completions": CHAT,
    "/invocations": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT,
    "/api/chat": OLLAMA_CHAT,
    "/api/generate": OLLAMA_GENERATE,
    "/api/show": some({"model": MODELS}, {"verbose": values(), "name": texts()}),
    "/v1/moderations": some(
        {"input": st.one_of(texts(), st.lists(OPENAI_PART, max_size=3))},
        {"model": MODELS},
    ),
    "/tokenize": some(
        {},
        {
            "prompt": texts(),
            "messages": OPENAI_MESSAGES,
            "tools": TOOLS,
            "add_special_tokens": st.booleans(),
            "return_token_strs": st.booleans(),
        },
    ),
    "/detokenize": some({"tokens": st.lists(numbers(), max_size=5)}, {}),
    "/v1/batches": BATCH,
}
"""Bodies by their path."""

_USER = {"role": "user", "content": "Hi"}
_PLAIN_TOOL = {"name": "look", "parameters": {"type": "object"}}
_PLAIN_TOOLS = [{"type": "function", "function": _PLAIN_TOOL}]

GOOD: Mapping[str, Any] = {
    "/v1/chat/completions": {"messages": [_USER], "max_tokens": 4},
    "/invocations": {"messages": [_USER], "tools": _PLAIN_TOOLS, "max_tokens": 4},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 4},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 16},
    "/v1/messages": {"model": MODEL, "messages": [_USER], "max_tokens": 4},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": [_USER]},
    "/api/chat": {
        "model": MODEL,
        "messages": [_USER],
        "options": {"num_predict": 4},
        "tools": _PLAIN_TOOLS,
    },
    "/api/generate": {"model": MODEL, "prompt": "Hi", "options": {"num_predict": 4}},
    "/api/show": {"model": MODEL},
    "/v1/moderations": {"input": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [5, 6]},
    "/v1/batches": {
        "input_file_id": FILE_ID,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    },
}
"""Bodies that are right, by their path."""

_TARGETS = (
    *("/v1/chat/completions",) * 5,
    *("/v1/completions", "/v1/responses", "/v1/messages", "/api/chat") * 2,
    *sorted(BODIES),
)

_HEADERS: tuple[Headers, ...] = (
    (),
    (("anthropic-version", "2023-06-01"), ("x-api-key", "none")),
    (("authorization", "Bearer none"), ("openai-organization", "a")),
    (("origin", "http://127.0.0.1:8000"),),
    (("origin", "http://elsewhere.example"),),
    (("origin", "\xff"), ("referer", "\xff")),
    (("content-encoding", "gzip"),),
    (("accept", "text/html"), ("accept-encoding", "gzip, \xe9")),
    (("cookie", "a=" + "b" * 3000),),
    (("x-request-id", "a" * 500),),
    (("traceparent", "00-zz"), ("tracestate", "\x01")),
    (("x-forwarded-for", "1.2.3.4, \xff"), ("x-forwarded-proto", "gopher")),
    (("host", "evil.example"),),
    (("host", "127.0.0.1"), ("host", "localhost")),
)
_CONTENT_TYPES = (
    *(("application/json",) * 40),
    *(("text/plain", "", "application/xml", "multipart/form-data; boundary=a", "\xff")),
    "application/json; charset=utf-16",
)


@st.composite
def _mutated(draw: DrawFn, value: Any) -> Any:
    """A value with one of its parts replaced, removed, wrapped or doubled."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def collect(inner: Any) -> None:
        entries: Any = ()
        if isinstance(inner, dict):
            entries = list(inner)
        elif isinstance(inner, list):
            entries = range(len(inner))
        for key in entries:
            places.append((inner, key))
            collect(inner[key])

    collect(value)
    if not places:
        return draw(values())
    owner, key = draw(st.sampled_from(places))
    match draw(st.integers(0, 5)):
        case 0:
            owner[key] = draw(values())
        case 1:
            del owner[key]
        case 2:
            owner[key] = [owner[key]]
        case 3:
            owner[key] = draw(bulky())
        case 4:
            if isinstance(owner, list):
                owner.append(owner[key])
            else:
                owner[draw(st.sampled_from(KEYS))] = owner[key]
        case _:
            owner[key] = {"type": owner[key]}
    return value


@st.composite
def _encoded(draw: DrawFn, body: Any) -> bytes:
    """A body's bytes, sometimes damaged."""
    encoded = json.dumps(body).encode()
    damage: dict[int, Callable[[], bytes]] = {
        0: lambda: encoded[: draw(st.integers(0, len(encoded)))],
        # Duplicate keys.
        1: lambda: encoded[:-1] + b", " + encoded[1:] if len(encoded) > 2 else b"{}",
        2: lambda: b"\xef\xbb\xbf" + encoded,
        3: lambda: encoded.replace(b'"', b'"\xff', 3),
        4: lambda: json.dumps(body, ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        ),
        5: lambda: encoded + draw(st.sampled_from((b"}", b"\x00", b" ", encoded))),
        6: lambda: encoded.replace(
            b": ", b": " + b"[" * 3000 + b"]" * 3000 + b', "a": ', 1
        ),
        7: lambda: encoded.replace(b"1", b"9" * draw(st.sampled_from((5, 400, 5000)))),
        8: lambda: json.dumps(body).encode("utf-16"),
        9: lambda: b"",
        10: lambda: draw(with_double_keys(encoded)),
        11: lambda: draw(with_double_keys(encoded)),
        # Between two values of the body.
        12: lambda: encoded.replace(
            b", ", b"," + draw(st.sampled_from((b" ", b"\n"))) * 60_000, 1
        ),
        13: lambda: encoded.replace(b", ", b", <!---->", 1),
    }
    count = len(damage)
    return (
        damage[draw(st.sampled_from(range(count)))]() if draw(rarely(10)) else encoded
    )


@st.composite
def _paths(draw: DrawFn, path: str) -> str:
    odd = (f"{path}/", f"/{path}", f"{path}?a=%ff&a=b", f"{path}/../x", path.upper())
    return draw(st.sampled_from(odd)) if draw(rarely(40)) else path


@st.composite
def chats(draw: DrawFn, host: str) -> Exchange:
    """A request with a body, in one of the APIs."""
    name = draw(st.sampled_from(_TARGETS))
    body = copy.deepcopy(GOOD[name])
    hostile = draw(BODIES[name])
    for field in list(hostile)[-draw(st.sampled_from((1, 1, 1, 1, 2, 2, 3, 9))) :]:
        body[field] = hostile[field]
    if draw(rarely(4)):
        body = draw(_mutated(body))
    given = draw(st.sampled_from(_HEADERS)) if draw(rarely(8)) else ()
    hosts = () if any(name == "host" for name, _ in given) else (("host", host),)
    kind = ("content-type", draw(st.sampled_from(_CONTENT_TYPES)))
    leaves = draw(st.sampled_from((-1, 0, 1, 2, 5))) if draw(rarely(10)) else None
    methods = ("GET", "PUT", "DELETE", "HEAD") if draw(rarely(30)) else ("POST",)
    return Exchange(
        draw(st.sampled_from(methods)),
        draw(_paths(name)),
        (*hosts, kind, *given),
        draw(_encoded(body)),
        leaves,
    )


_TEXT_PLACES: Mapping[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("messages", "0", "content"),
    "/invocations": ("messages", "0", "content"),
    "/v1/completions": ("prompt",),
    "/v1/responses": ("input",),
    "/v1/messages": ("messages", "0", "content"),
    "/v1/messages/count_tokens": ("messages", "0", "content"),
    "/api/chat": ("messages", "0", "content"),
    "/api/generate": ("prompt",),
    "/v1/moderations": ("input",),
    "/tokenize": ("prompt",),
}
"""Where bodies have a text."""

_WITH_TOOLS = (
    *("/v1/chat/completions", "/v1/responses", "/v1/messages"),
    *("/v1/messages/count_tokens", "/api/chat"),
)
_FORMATS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "/v1/chat/completions": lambda schema: {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": schema},
        }
    },
    "/v1/responses": lambda schema: {
        "text": {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    },
    "/api/chat": lambda schema: {"format": schema},
    "/api/generate": lambda schema: {"format": schema},
}


@st.composite
def bulky_chats(draw: DrawFn, host: str) -> Exchange:
    """A request that is right but for one thing that is long, deep or many."""
    name = draw(st.sampled_from(sorted(GOOD)))
    body = copy.deepcopy(GOOD[name])
    what = draw(st.sampled_from(("text", "value", "tools", "schema", "keys", "keys")))
    if what == "text" and name in _TEXT_PLACES:
        *way, last = _TEXT_PLACES[name]
        inner = body
        for step in way:
            inner = inner[int(step) if step.isdigit() else step]
        inner[last] = draw(runs())
    elif what == "tools" and name in _WITH_TOOLS:
        body["tools"] = draw(bulky_tools())
    elif what == "schema" and name in _FORMATS:
        body |= _FORMATS[name](draw(bulky_schemas()))
    elif what != "keys":
        body[draw(st.sampled_from(sorted(body)))] = draw(bulky())
    encoded = json.dumps(body).encode()
    if what == "keys":
        encoded = draw(with_double_keys(encoded))
    headers = (("host", host), ("content-type", "application/json"))
    return Exchange("POST", name, headers, encoded)


@st.composite
def picture_chats(draw: DrawFn, host: str, files: SearchStrategy[bytes]) -> Exchange:
    """A question about a picture, whose file may be damaged."""
    data = base64.b64encode(draw(files)).decode()
    question = "What is it?"
    bodies: dict[str, Any] = {
        "/v1/chat/completions": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data}},
                        {"type": "text", "text": question},
                    ],
                }
            ],
            "max_tokens": 2,
        },
        "/api/generate": {
            "model": MODEL,
            "prompt": question,
            "images": [data],
            "options": {"num_predict": 2},
            "stream": False,
        },
    }
    path = draw(st.sampled_from(sorted(bodies)))
    headers = (("host", host), ("content-type", "application/json"))
    return Exchange("POST", path, headers, json.dumps(bodies[path]).encode())


PLACES = (
    *("/", "/health", "/ping", "/version", "/metrics", "/openapi.json", "/v1/models"),
    *("/v1/models/mllama-demo", "/v1/models/a/b", "/api/tags", "/api/ps", "/api/pull"),
    *("/api/version", "/api/blobs/sha256:a", "/api/embed", "/v1/nothing", "/api"),
    *("/reset_prefix_cache", "/max_internal/eplb_stats", "/docs", "/%00", "/%ff", "/*"),
    *(
        "/v1/chat/completions/..",
        "//v1/models",
        "/v1/models/%2e%2e%2f",
        "/" + "a" * 2000,
    ),
)


@st.composite
def visits(draw: DrawFn, host: str) -> Exchange:
    """A request to any place, with any method."""
    method = draw(
        st.sampled_from(("GET", "GET", "HEAD", "POST", "OPTIONS", "DELETE", "PATCH"))
    )
    given = draw(st.sampled_from(_HEADERS))
    hosts = () if any(name == "host" for name, _ in given) else (("host", host),)
    query = draw(st.sampled_from(("", "", "?a=b", "?after_id=x", "?limit=-1", "?%ff")))
    body = b"" if method in ("GET", "HEAD") else draw(st.sampled_from((b"", b"{}")))
    place = draw(st.sampled_from(PLACES))
    return Exchange(method, f"{place}{query}", (*hosts, *given), body)


def good_question(host: str) -> Exchange:
    """Returns a request that is right, with a picture."""
    url = "data:image/png;base64," + base64.b64encode(pictures()[0]).decode()
    body = {
        "model": MODEL,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": "What color is it?"},
                ],
            }
        ],
        "temperature": 0,
        "max_tokens": 12,
    }
    headers = (("host", host), ("content-type", "application/json"))
    return Exchange("POST", "/v1/chat/completions", headers, json.dumps(body).encode())
