"""Requests have names, and each is recorded once, by how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mllama.errors import EngineError, EngineOverloadedError
from mllama.server.observability.metrics import REGISTRY
from mllama.server.observability.request_record import client_request_id
from tests.server.dialects.fake_engine import FakeEngine
from tests.server.dialects.in_process import InProcessServer

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "secret words"}]}


class Samples:
    """The values of metrics since this was made."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }

    def changed(self, name: str) -> dict[tuple[str, ...], float]:
        """Series of a metric whose values changed, by their labels' values."""
        return {
            tuple(dict(labels)[key] for key in sorted(dict(labels))): difference
            for (found, labels), value in self._read().items()
            if found == name
            and (difference := value - self._before.get((found, labels), 0))
        }

    def requests(self) -> dict[tuple[str, ...], float]:
        """Requests that ended, by dialect, outcome and route."""
        return self.changed("mllama_requests_total")


@pytest.fixture
def samples() -> Samples:
    return Samples()


@pytest.fixture
def api() -> InProcessServer:
    return InProcessServer(FakeEngine("Hello!"))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "mllama"):
        yield caplog


@pytest.mark.parametrize(
    "given", [None, "", "a b", "x" * 129, "tab\t", "é", "a\x7f", "a\nb"]
)
def test_ids_that_cant_be_echoed_are_not_used(given: str | None) -> None:
    assert client_request_id(given) is None


@pytest.mark.parametrize("given", ["a", "7f9c-42/x", "!" * 128])
def test_other_ids_are_used(given: str) -> None:
    assert client_request_id(given) == given


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat", "/nowhere", "/"])
def test_a_clients_id_is_echoed(api: InProcessServer, path: str) -> None:
    response = api.request("POST", path, headers={"X-Request-ID": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["request-id"] == "mine-1"
    assert "mine-1" not in api.request("GET", "/v1/models").text


def test_without_a_clients_id_each_request_has_its_own(api: InProcessServer) -> None:
    ids = {
        api.request("GET", "/v1/models", headers=headers).headers["x-request-id"]
        for headers in ({"X-Request-ID": ""}, {"X-Request-ID": "a b"})
    }
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)


def test_the_engine_gets_an_id_that_no_client_chose() -> None:
    class Noting(FakeEngine):
        def generate(self, request: Any, **options: Any) -> Any:
            seen.append(options["origin"].request_id)
            return super().generate(request, **options)

    seen: list[str] = []
    api = InProcessServer(Noting())
    for _ in range(2):
        api.request("POST", CHAT, json=HELLO, headers={"x-request-id": "same"})
    first, second = seen
    assert first != second
    assert "same" not in seen


def test_bodies_of_errors_have_the_clients_id(api: InProcessServer) -> None:
    api.engine.error = EngineError("the model failed")
    for path, body in (
        (CHAT, HELLO),
        ("/api/chat", {"model": "served", **HELLO}),
        ("/v1/messages", {"model": "served", "max_tokens": 9, **HELLO}),
    ):
        response = api.request(
            "POST", path, json=body, headers={"x-request-id": "mine"}
        )
        assert response.status_code == 500
        assert "mine" in response.text


@pytest.mark.parametrize(
    ("body", "error", "status", "outcome"),
    [
        (HELLO, None, 200, "ok"),
        ({**HELLO, "top_k": "x"}, None, 400, "client_error"),
        (HELLO, EngineOverloadedError("full"), 429, "overloaded"),
        (HELLO, EngineError("the model failed"), 500, "error"),
        (HELLO, KeyError("unforeseen"), 500, "error"),
    ],
)
def test_a_request_is_counted_by_its_outcome(
    api: InProcessServer,
    samples: Samples,
    body: Any,
    error: Exception | None,
    status: int,
    outcome: str,
) -> None:
    api.engine.error = error
    assert api.post(CHAT, body).status_code == status
    assert samples.requests() == {("openai", outcome, CHAT): 1}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "ok"), (EngineError("died"), "error"), (ValueError("bug"), "error")],
)
def test_a_stream_is_counted_by_how_it_ends(
    api: InProcessServer, samples: Samples, error: Exception | None, outcome: str
) -> None:
    if error is not None:
        api.engine.error_after = (3, error)
    response = api.post(CHAT, {**HELLO, "stream": True})
    assert response.status_code == 200
    assert samples.requests() == {("openai", outcome, CHAT): 1}


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_is_a_cancelled_request(
    api: InProcessServer, samples: Samples, is_stream: bool
) -> None:
    async def test() -> None:
        body = json.dumps({**HELLO, "stream": is_stream}).encode()
        messages: list[Any] = [{"type": "http.request", "body": body}]
        started = asyncio.Event()

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await started.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        async def wait() -> None:
            started.set()
            await asyncio.sleep(60)

        api.engine.wait = wait
        scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "raw_path": CHAT.encode(),
            "query_string": b"",
            "headers": [],
            "client": ("192.0.2.1", 1),
            "server": ("server", 80),
            "scheme": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }
        await asyncio.wait_for(api.app()(scope, receive, send), 30)

    asyncio.run(test())
    assert samples.requests() == {("openai", "cancelled", CHAT): 1}
    assert api.engine.running == 0


def test_paths_make_no_series_of_their_own(api: InProcessServer) -> None:
    def series() -> int:
        return sum(len(family.samples) for family in REGISTRY.collect())

    api.request("GET", "/random-x")
    api.request("GET", "/v1/models/served")
    before = series()
    for number in range(50):
        api.request("GET", f"/random-{number}")
        api.request("POST", f"/api/random-{number}")
        api.request("GET", f"/v1/models/random-{number}")
        api.request(f"M{number}", CHAT)
    # The method that isn't allowed, on a route of its own.
    assert series() <= before + 1


def test_dialects_are_told_apart(api: InProcessServer, samples: Samples) -> None:
    api.request("GET", "/v1/models")
    api.request("GET", "/v1/models", headers={"anthropic-version": "2023-06-01"})
    api.request("GET", "/api/tags")
    api.request("GET", "/nowhere")
    assert samples.requests() == {
        ("openai", "ok", "/v1/models"): 1,
        ("anthropic", "ok", "/v1/models"): 1,
        ("ollama", "ok", "/api/tags"): 1,
        ("none", "client_error", "none"): 1,
    }


def test_tokens_and_times_are_recorded(api: InProcessServer, samples: Samples) -> None:
    api.engine.cached_tokens = 3
    usage = api.post(CHAT, HELLO).json()["usage"]
    assert samples.changed("mllama_prompt_tokens_total") == {(): usage["prompt_tokens"]}
    assert samples.changed("mllama_prompt_tokens_cached_total") == {(): 3}
    tokens = usage["completion_tokens"]
    assert samples.changed("mllama_generation_tokens_total") == {(): tokens}
    assert samples.changed("mllama_request_success_total") == {("stop",): 1}
    assert samples.changed("mllama_time_to_first_token_seconds_count") == {(): 1}
    # The token that ends the answer comes with no text.
    between = samples.changed("mllama_inter_token_latency_seconds_count")
    assert between == {(): len("Hello!") - 1}
    latency = samples.changed("mllama_e2e_request_latency_seconds_count")
    assert latency == {("openai",): 1}
    lengths = samples.changed("mllama_request_generation_tokens_sum")
    assert lengths == {(): tokens}
    assert samples.changed("mllama_num_requests_running") == {}


def test_images_are_recorded(api: InProcessServer, samples: Samples) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://pictures/one.png"}}
    api.post(CHAT, {"messages": [{"role": "user", "content": [image]}]})
    assert samples.changed("mllama_prompt_images_total") == {(): 1}
    assert samples.changed("mllama_image_preprocessing_seconds_count") == {(): 1}


def fields_of(log: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The fields of the only line about a request."""
    (record,) = (each for each in log.records if each.name == "mllama.access")
    fields: dict[str, Any] = vars(record)["request_fields"]
    return fields


def test_a_request_has_one_line_without_its_content(
    api: InProcessServer, log: pytest.LogCaptureFixture
) -> None:
    api.request("POST", f"{CHAT}?key=secret", json=HELLO)
    (line,) = log.messages
    assert line.startswith(f"POST {CHAT} 200 ok duration_seconds=")
    fields = fields_of(log)
    assert fields["prompt_tokens"] == 1 + len("secret words")
    assert fields["generated_tokens"] == len("Hello!") + 1
    assert fields["first_token_seconds"] <= fields["duration_seconds"]
    assert not {"secret", "Hello"} & set(line.replace("=", " ").split())
    assert "secret" not in line


def test_bad_json_is_one_line(
    api: InProcessServer, log: pytest.LogCaptureFixture
) -> None:
    assert api.post(CHAT, b'{"secret').status_code == 400
    (line,) = log.messages
    assert line.startswith(f"POST {CHAT} 400 client_error error=invalid_json ")
    assert "secret" not in log.text


def test_an_unforeseen_error_has_one_traceback(
    api: InProcessServer, log: pytest.LogCaptureFixture
) -> None:
    api.engine.error = KeyError("bug")
    api.post(CHAT, HELLO)
    assert log.text.count("Traceback") <= 2
    failures = [record for record in log.records if record.exc_info]
    assert len(failures) == 1


def test_probes_have_no_line(
    api: InProcessServer, log: pytest.LogCaptureFixture, samples: Samples
) -> None:
    for path in ("/ping", "/metrics"):
        api.request("GET", path)
    assert [each for each in log.messages if "/ping" in each] == []
    assert ("none", "ok", "/ping") not in samples.requests()


def test_an_error_outside_of_routes_is_a_500_with_an_id(
    log: pytest.LogCaptureFixture,
) -> None:
    api = InProcessServer()

    async def broken() -> None:
        raise KeyError("bug")

    api.app().add_api_route("/broken", broken)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=api.app())
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server"
        ) as client:
            return await client.get("/broken", headers={"x-request-id": "mine"})

    response = asyncio.run(send())
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "mine"
    assert "mine" in response.json()["error"]["message"]
    assert sum(bool(record.exc_info) for record in log.records) == 1
