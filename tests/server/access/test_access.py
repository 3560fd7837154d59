"""Who is let in, and what the others are told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from mllama.max_compat.server import ServingTokenGeneratorSettings, Settings
from mllama.server.health_routes import ALWAYS_READY, add_health_routes
from mllama.server.options import ServerOptions
from mllama.server.routes import new_application


async def _ok() -> JSONResponse:
    return JSONResponse({"ok": True})


def client_of(
    *, client: tuple[str, int] = ("192.0.2.7", 1234), **options: Any
) -> TestClient:
    unused: Any = None
    server = ServerOptions(**{"host": "0.0.0.0", "port": 8000, **options})
    app: FastAPI = new_application(
        Settings(),
        ServingTokenGeneratorSettings(
            model_factory=unused, pipeline_config=unused, tokenizer=unused
        ),
        server,
    )
    add_health_routes(app, ALWAYS_READY)
    for path in ("/v1/models", "/v1/chat/completions"):
        app.add_api_route(path, _ok, methods=["GET", "POST"])
    return TestClient(
        app, base_url="http://localhost:8000", client=client, root_path=server.root_path
    )


def error_code(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    return response.json()["error"]["code"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer one"},
        {"authorization": "bearer two"},
        {"x-api-key": "two"},
    ],
)
def test_a_key_opens_the_server(headers: dict[str, str]) -> None:
    client = client_of(api_keys=["one", "two"])
    assert client.get("/v1/models", headers=headers).json() == {"ok": True}


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "send `Authorization: Bearer KEY`"),
        ({"Authorization": "Basic b25l"}, "send `Authorization: Bearer KEY`"),
        ({"Authorization": "Bearer three"}, "The key is wrong."),
        ({"Authorization": "Bearer "}, "The key is wrong."),
        ({"x-api-key": "on"}, "The key is wrong."),
        ({"x-api-key": b"\xff\xfe"}, "The key is wrong."),
    ],
)
def test_nothing_else_does(headers: Any, says: str) -> None:
    response = client_of(api_keys=["one"]).get("/v1/models", headers=headers)
    assert error_code(response, 401) == "invalid_api_key"
    assert says in response.json()["error"]["message"]
    assert response.headers["www-authenticate"] == "Bearer"


def test_unknown_paths_need_a_key_too() -> None:
    assert client_of(api_keys=["one"]).get("/nothing").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/health/"])
def test_probes_need_no_key(path: str) -> None:
    response = client_of(api_keys=["one"]).get(path)
    assert response.status_code in (200, 404)


@pytest.mark.parametrize(
    ("address", "status"),
    [("127.0.0.1", 200), ("::1", 200), ("192.0.2.7", 401)],
)
def test_metrics_need_no_key_on_this_machine(address: str, status: int) -> None:
    client = client_of(api_keys=["one"], client=(address, 1))
    assert client.get("/metrics").status_code == status


def test_state_is_changed_by_the_administrator_alone() -> None:
    path = "/reset_prefix_cache"
    assert client_of().post(path).status_code == 404
    assert (
        client_of(api_keys=["one"]).post(path, headers={"x-api-key": "one"}).status_code
        == 404
    )
    client = client_of(api_keys=["one"], admin_keys=["root"])
    refused = client.post(path, headers={"x-api-key": "one"})
    assert error_code(refused, 401) == "invalid_api_key"
    assert client.post("/v1/models", headers={"x-api-key": "root"}).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "127.0.0.1:8000",
        "127.3.2.1",
        "[::1]:8000",
        "llama.localhost",
        "host.docker.internal:8000",
        "nas.local",
        "llama.example.org:443",
    ],
)
def test_a_local_server_has_these_names(host: str) -> None:
    client = client_of(host="127.0.0.1", allowed_hosts=["llama.example.org"])
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "127.0.0.1.evil.com",
        "localhost.evil.com:8000",
        "evillocal",
        "192.168.1.5:8000",
        "[2001:db8::1]:8000",
    ],
)
def test_a_local_server_has_no_other_name(host: str) -> None:
    response = client_of(host="127.0.0.1").get("/v1/models", headers={"Host": host})
    assert error_code(response, 403) == "host_not_allowed"
    assert "--allowed-host" in response.json()["error"]["message"]
    assert (
        client_of(host="0.0.0.0").get("/v1/models", headers={"Host": host}).status_code
        == 200
    )


def test_a_web_page_is_refused() -> None:
    for origin in ("https://evil.com", "null", "http://localhost:3000"):
        response = client_of().get("/v1/models", headers={"Origin": origin})
        assert error_code(response, 403) == "origin_not_allowed"
        preflight = client_of().options(
            "/v1/models",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
        )
        assert preflight.status_code == 403
        assert "access-control-allow-origin" not in preflight.headers


def test_a_page_of_the_server_itself_is_answered() -> None:
    headers = {"Origin": "http://localhost:8000", "Content-Type": "application/json"}
    client = client_of()
    assert client.post("/v1/models", headers=headers, content=b"{}").is_success


@pytest.mark.parametrize("allowed", ["https://app.example.org", "*"])
def test_an_allowed_page_is_answered_as_browsers_need(allowed: str) -> None:
    client = client_of(api_keys=["one"], origins=[allowed])
    origin = {"Origin": "https://app.example.org"}
    preflight = client.options(
        "/v1/chat/completions",
        headers={
            **origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] in (allowed, "*")
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    # A page can read why it was refused.
    refused = client.get("/v1/models", headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] in (allowed, "*")
    answered = client.get("/v1/models", headers={**origin, "x-api-key": "one"})
    assert answered.json() == {"ok": True}
    for response in (refused, answered):
        assert response.headers["x-request-id"] == response.headers["request-id"]
        exposed = response.headers["access-control-expose-headers"].lower()
        assert {"x-request-id", "request-id", "retry-after"} <= {*exposed.split(", ")}


@pytest.mark.parametrize(
    ("asked", "status", "code", "message"),
    [
        ({"Origin": "https://evil.com"}, 403, "origin_not_allowed", "evil.com"),
        ({"Access-Control-Request-Method": "BREW"}, 400, "invalid_value", "'BREW'"),
        (
            {"Access-Control-Request-Private-Network": "true"},
            400,
            "invalid_value",
            "another network",
        ),
    ],
)
def test_a_browsers_question_is_refused_in_the_form_of_the_api(
    asked: dict[str, str], status: int, code: str, message: str
) -> None:
    client = client_of(origins=["https://page.example"])
    headers = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "X-Request-Id": "mine",
        **asked,
    }
    refused = client.options("/v1/chat/completions", headers=headers)
    assert error_code(refused, status) == code
    assert refused.headers["content-type"] == "application/json"
    assert int(refused.headers["content-length"]) == len(refused.content)
    assert message in refused.json()["error"]["message"]
    ollamas = client.options("/api/chat", headers=headers)
    assert message in ollamas.json()["error"]
    anthropics = client.options("/v1/messages", headers=headers).json()
    assert (anthropics["type"], anthropics["request_id"]) == ("error", "mine")
    if "Origin" in asked:
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"host": "0.0.0.0"}, "0.0.0.0"),
        ({"host": "127.0.0.1", "uds": "/tmp/socket"}, "a Unix socket"),
        ({"host": "127.0.0.1"}, None),
        ({"host": "0.0.0.0", "checks_hosts": True}, None),
    ],
)
def test_an_allowed_host_that_does_nothing_is_said(
    options: dict[str, Any], where: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ServerOptions(port=0, api_keys=["a"], **options).log_warnings()
    assert not caplog.records
    given = ServerOptions(port=0, api_keys=["a"], allowed_hosts=["x"], **options)
    given.log_warnings()
    lines = [record.getMessage() for record in caplog.records]
    if where is None:
        assert not lines
    else:
        assert lines == [
            f"--allowed-host is ignored: a server on {where} answers to every name"
        ]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer none"},
        {"x-api-key": "none"},
        {"Authorization": "Bearer none", "Content-Type": "multipart/form-data"},
    ],
)
def test_a_page_may_post_what_browsers_ask_for(headers: dict[str, str]) -> None:
    client = client_of(origins=["https://page.example"])
    origin = {"Origin": "https://page.example"}
    response = client.post("/v1/models", headers={**origin, **headers})
    assert response.json() == {"ok": True}
    # No route has it.
    assert client.delete("/v1/models", headers=origin).status_code == 405
    # Browsers add this by themselves.
    basic = {"Authorization": "Basic bm9uZTpub25l"}
    refused = client.post("/v1/models", headers={**origin, **basic})
    assert error_code(refused, 415) == "unsupported_media_type"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_page_can_not_post_what_browsers_send_without_asking(kind: str) -> None:
    client = client_of(origins=["*"])
    headers = {"Origin": "https://evil.com", "Content-Type": kind}
    response = client.post("/v1/models", headers=headers, content=b"{}")
    assert error_code(response, 415) == "unsupported_media_type"
    # Programs may.
    assert client.post("/v1/models", content=b"{}").is_success


def test_a_proxys_path_is_no_way_around() -> None:
    client = client_of(api_keys=["one"], root_path="/llama")
    assert client.get("/llama/v1/models").status_code == 401
    assert client.get("/llama/health").status_code == 200
    answered = client.get("/llama/v1/models", headers={"x-api-key": "one"})
    assert answered.json() == {"ok": True}


@pytest.mark.parametrize("root_path", ["", "/llama"])
@pytest.mark.parametrize(
    ("path", "version", "form"),
    [
        ("/api/chat", {}, "ollama"),
        ("/v1/messages", {}, "anthropic"),
        ("/v1/models/other", {"anthropic-version": "2023-06-01"}, "anthropic"),
        ("/v1/models/other", {}, "openai"),
        ("/v1/modelsx", {"anthropic-version": "2023-06-01"}, "openai"),
        ("/v1/responses", {"anthropic-version": "2023-06-01"}, "openai"),
    ],
)
def test_each_api_has_its_own_errors_below_a_proxys_path_too(
    root_path: str, path: str, version: dict[str, str], form: str
) -> None:
    client = client_of(api_keys=["one"], root_path=root_path)
    for headers, status in (({}, 401), ({"x-api-key": "one"}, 404)):
        response = client.get(root_path + path, headers={**headers, **version})
        assert response.status_code == status, response.text
        answer = response.json()
        assert (
            "ollama"
            if isinstance(answer["error"], str)
            else "openai"
            if "param" in answer["error"]
            else "anthropic"
        ) == form
        if form == "anthropic":
            assert answer["request_id"] == response.headers["request-id"]
            assert answer["request_id"] == response.headers["x-request-id"]


def test_refused_requests_have_ids_of_their_own() -> None:
    client = client_of(api_keys=["one"])
    ids = {client.get("/v1/models").headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
