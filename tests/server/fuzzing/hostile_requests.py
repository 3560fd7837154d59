"""A grammar of requests in every API: mostly valid, with a few things wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .exchange import Exchange, Headers
from .hostile_values import (
    KEYS,
    SCHEMAS,
    image_sources,
    numbers,
    pictures,
    texts,
    values,
)

MODEL = "mllama-demo"

_MODELS = st.sampled_from(
    (MODEL, MODEL, MODEL, "", "llama3.2-vision", "nobody", "\ud800", "a/b:c")
)
_SCHEMAS = st.one_of(st.sampled_from(SCHEMAS), values())
_NAMES = st.one_of(st.sampled_from(("look", "get_weather")), texts())
_ARGUMENTS = st.sampled_from(
    ("{}", '{"at": 1}', "[]", "1", "", "null", "{", '{"a": "\ud800"}', "{" * 300)
)
_RATES = st.one_of(
    st.sampled_from((1, 0.5, 0.9)), st.sampled_from((0, 1e-30, 2, "0.3")), numbers()
)
_STOPS = st.one_of(
    st.sampled_from(("a", ["a", "b"], [], "", ["\x00"], ["\ud800"], ["x" * 3000])),
    st.lists(texts(), max_size=40),
)
_LENGTHS = st.one_of(st.integers(1, 8), st.sampled_from((0, -1, 10**9)), numbers())

Fields = Mapping[str, SearchStrategy[Any]]


@st.composite
def _some(draw: DrawFn, required: Fields, optional: Fields, most: int = 4) -> Any:
    """An object with all required and some optional fields, in any order."""
    names = draw(
        st.lists(st.sampled_from(sorted(optional)), max_size=most, unique=True)
        if optional
        else st.just([])
    )
    return {
        name: draw(kind)
        for name, kind in (
            *required.items(),
            *((name, optional[name]) for name in names),
        )
    }


def _kind(name: str) -> Fields:
    return {"type": st.just(name)}


@st.composite
def _maybe(draw: DrawFn, good: SearchStrategy[Any]) -> Any:
    """Mostly a good value, sometimes any."""
    return draw(values() if draw(_rarely(10)) else good)


def _rarely(cases: int) -> SearchStrategy[bool]:
    """True once in so many cases; Hypothesis prefers the ends of ranges of numbers."""
    return st.sampled_from((*(False,) * (cases - 1), True))


_TOOL = st.one_of(
    _some(
        {
            "type": st.just("function"),
            "function": _some(
                {"name": _NAMES},
                {
                    "description": texts(),
                    "parameters": _SCHEMAS,
                    "strict": st.sampled_from((True, False, None)),
                },
            ),
        },
        {},
    ),
    _some(
        {"name": _NAMES, "input_schema": _SCHEMAS},
        {
            "description": texts(),
            "strict": st.booleans(),
            "type": texts(),
            "input_examples": st.lists(values(), max_size=2),
            "eager_input_streaming": st.booleans(),
        },
    ),
    _some({"type": st.just("function"), "name": _NAMES}, {"parameters": _SCHEMAS}),
)
_TOOLS = st.lists(_TOOL, max_size=3)
_TOOL_CHOICES = st.one_of(
    st.sampled_from(("auto", "none", "required", {"type": "any"}, {"type": "auto"})),
    _NAMES.map(lambda name: {"type": "function", "function": {"name": name}}),
    _NAMES.map(lambda name: {"type": "tool", "name": name}),
    _NAMES.map(lambda name: {"type": "function", "name": name}),
)
_SAMPLING: Fields = {
    **dict.fromkeys(
        (
            *("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty"),
            *("repetition_penalty", "repeat_penalty"),
        ),
        _RATES,
    ),
    "top_k": numbers(),
    "seed": numbers(),
    "stop": _STOPS,
    "stop_token_ids": st.one_of(st.lists(numbers(), max_size=3), values()),
    "ignore_eos": st.booleans(),
    "min_tokens": numbers(),
    "logit_bias": st.dictionaries(
        st.sampled_from(("0", "5", "99999", "-1", "a", "")), numbers(), max_size=3
    ),
}
_OPENAI: Fields = {
    **_SAMPLING,
    "max_tokens": _LENGTHS,
    "stream": st.booleans(),
    "stream_options": st.sampled_from(({}, {"include_usage": True}, None, 1)),
    "n": st.one_of(st.integers(1, 3), numbers()),
    "prompt_logprobs": st.one_of(st.integers(0, 3), numbers()),
    "user": texts(),
    "metadata": values(),
    "response_format": st.one_of(
        st.sampled_from(({"type": "text"}, {"type": "json_object"})),
        _SCHEMAS.map(
            lambda schema: {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": schema},
            }
        ),
    ),
    "guided_regex": texts(),
    "structured_outputs": values(),
    "priority": numbers(),
}

_OPENAI_PART = st.one_of(
    _some({**_kind("text"), "text": texts()}, {}),
    _some(
        {
            **_kind("image_url"),
            "image_url": st.one_of(
                image_sources(), image_sources().map(lambda url: {"url": url})
            ),
        },
        {},
    ),
    values(),
)
_CALL = _some(
    {
        "id": st.sampled_from(("c", "c1", "", "\ud800")),
        "type": st.just("function"),
        "function": _some({"name": _NAMES, "arguments": _maybe(_ARGUMENTS)}, {}),
    },
    {},
)
_OPENAI_MESSAGE = _some(
    {
        "role": st.sampled_from(
            ("user", "user", "user", "system", "assistant", "tool", "developer", "x")
        ),
        "content": _maybe(st.one_of(texts(), st.lists(_OPENAI_PART, max_size=3))),
    },
    {
        "tool_calls": st.lists(_CALL, max_size=2),
        "tool_call_id": st.sampled_from(("c", "c1", "\ud800")),
        "name": texts(),
        "refusal": texts(),
        "images": st.lists(image_sources(), max_size=2),
    },
    most=2,
)
_OPENAI_MESSAGES = st.lists(_OPENAI_MESSAGE, max_size=4)

_CHAT = _some(
    {"model": _MODELS, "messages": _maybe(_OPENAI_MESSAGES)},
    {
        **_OPENAI,
        "tools": _TOOLS,
        "tool_choice": _TOOL_CHOICES,
        "parallel_tool_calls": st.booleans(),
        "logprobs": st.booleans(),
        "top_logprobs": st.one_of(st.integers(0, 3), numbers()),
        "add_generation_prompt": st.booleans(),
        "continue_final_message": st.booleans(),
        "echo": st.booleans(),
        "chat_template_kwargs": st.dictionaries(
            st.sampled_from(("date_string", "tools", "messages", "bos_token", "a")),
            values(),
            max_size=2,
        ),
    },
)
_COMPLETION = _some(
    {
        "model": _MODELS,
        "prompt": _maybe(
            st.one_of(
                texts(),
                st.lists(texts(), max_size=3),
                st.lists(numbers(), max_size=3),
                st.lists(st.lists(numbers(), max_size=3), max_size=3),
            )
        ),
    },
    {
        **_OPENAI,
        "echo": st.booleans(),
        "best_of": numbers(),
        "logprobs": st.one_of(st.integers(0, 3), numbers()),
        "suffix": texts(),
    },
)
_RESPONSE_ITEM = st.one_of(
    _some(
        {
            "role": st.sampled_from(("user", "assistant", "system", "developer", "x")),
            "content": _maybe(
                st.one_of(
                    texts(),
                    st.lists(
                        st.one_of(
                            _some({**_kind("input_text"), "text": texts()}, {}),
                            _some(
                                {
                                    **_kind("input_image"),
                                    "image_url": image_sources(),
                                },
                                {"detail": texts()},
                            ),
                            values(),
                        ),
                        max_size=3,
                    ),
                )
            ),
        },
        {"type": st.just("message"), "id": texts(), "status": texts()},
    ),
    _some(
        {
            **_kind("function_call"),
            "call_id": st.sampled_from(("c", "c1")),
            "name": _NAMES,
            "arguments": _ARGUMENTS,
        },
        {},
    ),
    _some(
        {
            **_kind("function_call_output"),
            "call_id": st.sampled_from(("c", "c1")),
            "output": texts(),
        },
        {},
    ),
)
_RESPONSES = _some(
    {
        "model": _MODELS,
        "input": _maybe(st.one_of(texts(), st.lists(_RESPONSE_ITEM, max_size=4))),
    },
    {
        "stream": st.booleans(),
        "instructions": texts(),
        "max_output_tokens": _LENGTHS,
        "temperature": _RATES,
        "top_p": _RATES,
        "tools": _TOOLS,
        "tool_choice": _TOOL_CHOICES,
        "top_logprobs": numbers(),
        "include": st.lists(texts(), max_size=2),
        "metadata": values(),
        "text": _SCHEMAS.map(
            lambda schema: {
                "format": {"type": "json_schema", "name": "a", "schema": schema}
            }
        ),
        "stream_options": values(),
        "truncation": texts(),
        "previous_response_id": texts(),
    },
)
_BLOCK = st.one_of(
    _some({**_kind("text"), "text": texts()}, {}),
    _some(
        {
            **_kind("image"),
            "source": st.one_of(
                image_sources().map(lambda url: {"type": "url", "url": url}),
                image_sources().map(
                    lambda data: {
                        "type": "base64",
                        "media_type": "image/png",
                        "data": data,
                    }
                ),
            ),
        },
        {},
    ),
    _some(
        {
            **_kind("tool_use"),
            "id": st.sampled_from(("t", "t1", "")),
            "name": _NAMES,
            "input": values(),
        },
        {},
    ),
    _some(
        {
            **_kind("tool_result"),
            "tool_use_id": st.sampled_from(("t", "t1")),
            "content": st.one_of(texts(), st.lists(values(), max_size=2)),
        },
        {"is_error": st.booleans()},
    ),
    values(),
)
_ANTHROPIC_PROMPT: Fields = {
    "system": st.one_of(texts(), st.lists(_BLOCK, max_size=2)),
    "tools": _TOOLS,
    "tool_choice": _TOOL_CHOICES,
    "thinking": values(),
}
_ANTHROPIC_TURNS: Fields = {
    "model": _MODELS,
    "messages": _maybe(
        st.lists(
            _some(
                {
                    "role": st.sampled_from(("user", "user", "assistant", "x")),
                    "content": _maybe(st.one_of(texts(), st.lists(_BLOCK, max_size=3))),
                },
                {},
            ),
            max_size=4,
        )
    ),
}
_MESSAGES = _some(
    {**_ANTHROPIC_TURNS, "max_tokens": _LENGTHS},
    {
        **_ANTHROPIC_PROMPT,
        "stream": st.booleans(),
        "temperature": _RATES,
        "top_p": _RATES,
        "top_k": numbers(),
        "stop_sequences": st.lists(texts(), max_size=3),
        "metadata": values(),
        "service_tier": texts(),
        "output_config": values(),
    },
)
_COUNT = _some(_ANTHROPIC_TURNS, _ANTHROPIC_PROMPT)
_OLLAMA_OPTIONS = _some(
    {},
    {
        **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), _RATES),
        "repeat_penalty": _RATES,
        **{
            name: numbers()
            for name in ("top_k", "seed", "num_ctx", "num_predict", "repeat_last_n")
        },
        "stop": _STOPS,
        "mirostat": numbers(),
        "num_gpu": values(),
    },
)
_OLLAMA: Fields = {
    "options": _maybe(_OLLAMA_OPTIONS),
    "stream": st.booleans(),
    "format": st.one_of(st.just("json"), _SCHEMAS),
    "keep_alive": values(),
    "think": values(),
    "logprobs": st.booleans(),
    "top_logprobs": numbers(),
}
_OLLAMA_CHAT = _some(
    {
        "model": _MODELS,
        "messages": _maybe(
            st.lists(
                _some(
                    {
                        "role": st.sampled_from(
                            ("user", "user", "assistant", "system", "tool", "x")
                        ),
                        "content": _maybe(texts()),
                    },
                    {
                        "images": st.lists(image_sources(), max_size=2),
                        "tool_calls": st.lists(
                            _some(
                                {
                                    "function": _some(
                                        {"name": _NAMES, "arguments": values()}, {}
                                    )
                                },
                                {},
                            ),
                            max_size=2,
                        ),
                        "tool_name": _NAMES,
                        "thinking": texts(),
                    },
                    most=2,
                ),
                max_size=4,
            )
        ),
    },
    {**_OLLAMA, "tools": _TOOLS},
)
_OLLAMA_GENERATE = _some(
    {"model": _MODELS, "prompt": _maybe(texts())},
    {
        **_OLLAMA,
        "system": texts(),
        "images": st.lists(image_sources(), max_size=2),
        "raw": st.booleans(),
        "template": texts(),
        "context": st.lists(numbers(), max_size=3),
        "suffix": texts(),
    },
)

BODIES: Mapping[str, SearchStrategy[Any]] = {
    "/v1/chat/completions": _CHAT,
    "/invocations": _CHAT,
    "/v1/completions": _COMPLETION,
    "/v1/responses": _RESPONSES,
    "/v1/messages": _MESSAGES,
    "/v1/messages/count_tokens": _COUNT,
    "/api/chat": _OLLAMA_CHAT,
    "/api/generate": _OLLAMA_GENERATE,
    "/api/show": _some({"model": _MODELS}, {"verbose": values(), "name": texts()}),
    "/v1/moderations": _some(
        {"input": st.one_of(texts(), st.lists(_OPENAI_PART, max_size=3))},
        {"model": _MODELS},
    ),
    "/tokenize": _some(
        {},
        {
            "prompt": texts(),
            "messages": _OPENAI_MESSAGES,
            "tools": _TOOLS,
            "add_special_tokens": st.booleans(),
            "return_token_strs": st.booleans(),
        },
    ),
    "/detokenize": _some({"tokens": st.lists(numbers(), max_size=5)}, {}),
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
    match draw(st.integers(0, 4)):
        case 0:
            owner[key] = draw(values())
        case 1:
            del owner[key]
        case 2:
            owner[key] = [owner[key]]
        case 3:
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
    }
    return damage[draw(st.sampled_from(range(10)))]() if draw(_rarely(12)) else encoded


@st.composite
def _paths(draw: DrawFn, path: str) -> str:
    odd = (f"{path}/", f"/{path}", f"{path}?a=%ff&a=b", f"{path}/../x", path.upper())
    return draw(st.sampled_from(odd)) if draw(_rarely(40)) else path


@st.composite
def chats(draw: DrawFn, host: str) -> Exchange:
    """A request with a body, in one of the APIs."""
    name = draw(st.sampled_from(_TARGETS))
    body = copy.deepcopy(GOOD[name])
    hostile = draw(BODIES[name])
    for field in list(hostile)[-draw(st.sampled_from((1, 1, 1, 1, 2, 2, 3, 9))) :]:
        body[field] = hostile[field]
    if draw(_rarely(4)):
        body = draw(_mutated(body))
    given = draw(st.sampled_from(_HEADERS)) if draw(_rarely(8)) else ()
    hosts = () if any(name == "host" for name, _ in given) else (("host", host),)
    kind = ("content-type", draw(st.sampled_from(_CONTENT_TYPES)))
    leaves = draw(st.sampled_from((-1, 0, 1, 2, 5))) if draw(_rarely(10)) else None
    methods = ("GET", "PUT", "DELETE", "HEAD") if draw(_rarely(30)) else ("POST",)
    return Exchange(
        draw(st.sampled_from(methods)),
        draw(_paths(name)),
        (*hosts, kind, *given),
        draw(_encoded(body)),
        leaves,
    )


@st.composite
def picture_chats(draw: DrawFn, host: str, files: SearchStrategy[bytes]) -> Exchange:
    """A question about a picture, whose file may be damaged."""
    import base64

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
    import base64

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
