"""Answers of a server, and what it can do wrong."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from mllama.cli.chat_session.backend import AnswerEnd
from mllama.cli.chat_session.server_backend import ServerBackend
from mllama.cli.chat_session.settings import AnswerSettings
from mllama.errors import MllamaError, PromptTooLongError

HELLO = [{"role": "user", "content": "Hello"}]
MODELS = {"data": [{"id": "first"}, {"id": "second"}]}


def events(*objects: Any, done: bool = True) -> httpx.Response:
    lines = [f"data: {json.dumps(each)}\n\n" for each in objects]
    return httpx.Response(200, text="".join([*lines, "data: [DONE]\n\n" * done]))


def piece(text: str | None, reason: str | None = None) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


class FakeServer:
    """Answers chats with a response, or raises an error."""

    def __init__(self, answer: httpx.Response | Exception) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        if request.url.path == "/v1/models":
            return httpx.Response(200, json=MODELS)
        return self.answer

    def backend(self, url: str = "http://host:8000", **options: Any) -> ServerBackend:
        options = {"api_key": None, "model": None, **options}
        return ServerBackend(url, transport=httpx.MockTransport(self), **options)


def asked(backend: ServerBackend, **settings: Any) -> list[str | AnswerEnd]:
    return list(backend.answer(HELLO, AnswerSettings(settings)))


@pytest.mark.parametrize("url", ["http://host:8000", "http://host:8000/v1/"])
def test_an_answer_is_streamed_with_the_settings(url: str) -> None:
    usage = {
        "prompt_tokens": 90,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 16, "image_tokens": 68},
    }
    answer = events(
        piece(""), piece("Re"), piece("d."), piece(None, "stop"), {"usage": usage}
    )
    server = FakeServer(answer)
    backend = server.backend(url, api_key="secret")
    *pieces, end = asked(backend, temperature=0.5, stop=("END",), max_new_tokens=7)
    assert pieces == ["Re", "d."]
    assert isinstance(end, AnswerEnd)
    assert (end.finish_reason, end.completion_tokens) == ("stop", 3)
    assert (end.prompt_tokens, end.image_tokens, end.cached_tokens) == (90, 68, 16)
    assert end.seconds_to_first_token is not None
    request = server.requests[-1]
    assert str(request.url) == "http://host:8000/v1/chat/completions"
    assert request.headers["Authorization"] == "Bearer secret"
    assert json.loads(request.content) == {
        "model": "first",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "stop": ["END"],
        "max_tokens": 7,
    }


def test_another_model_is_asked_by_its_name() -> None:
    server = FakeServer(events(piece("a", "stop")))
    asked(server.backend(model="second"))
    (request,) = server.requests
    assert json.loads(request.content)["model"] == "second"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            httpx.Response(404, json={"error": {"message": "no model x"}}),
            "answers 404: no model x",
        ),
        (httpx.Response(401, json={"error": {"message": "key?"}}), "--api-key"),
        (httpx.Response(502, text="<html>"), "answers 502: Bad Gateway"),
        (httpx.Response(500, json=["odd"]), "answers 500"),
        (events(piece("a"), {"error": {"message": "it broke"}}), "it broke"),
        (events(piece("a")), "ended its answer in the middle"),
        (httpx.Response(200, text="data: {\n\n"), "has no JSON"),
        (events([1]), "something else than objects"),
    ],
)
def test_what_the_server_does_wrong_is_said(
    answer: httpx.Response, message: str
) -> None:
    with pytest.raises(MllamaError, match=message):
        asked(FakeServer(answer).backend())


def test_a_prompt_that_is_too_long_is_told_from_other_errors() -> None:
    error = {"message": "4097 tokens", "code": "context_length_exceeded"}
    answer = httpx.Response(400, json={"error": error})
    with pytest.raises(PromptTooLongError, match="answers 400: 4097 tokens"):
        asked(FakeServer(answer).backend())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (httpx.ConnectError("Connection refused"), "refused; is the server running"),
        (httpx.ReadTimeout(""), "it is silent"),
        (httpx.RemoteProtocolError("peer closed"), "peer closed"),
    ],
)
def test_a_server_that_is_away_is_said(error: Exception, message: str) -> None:
    with pytest.raises(MllamaError, match=message):
        FakeServer(error).backend()
    server = FakeServer(error)
    with pytest.raises(MllamaError, match=message):
        asked(server.backend(model="x"))


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://", "http://h:x"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(MllamaError, match="--url must be a URL"):
        FakeServer(events()).backend(url)


def test_a_key_that_no_header_takes_is_refused() -> None:
    with pytest.raises(MllamaError, match="API key"):
        FakeServer(events()).backend(api_key="kéy")
