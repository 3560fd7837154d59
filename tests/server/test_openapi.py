"""The OpenAPI document is valid, and has every route with all that it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from mllama.server.web.requests import FILES_PATH
from tests.server.test_routes import all_routes, app

__all__ = ["app"]

IMPLIED = {"head", "options"}
"""Methods that need no entry."""


OF_THE_PAGE = f"{FILES_PATH}/{{name}}"
"""Files for browsers, which are no part of the API."""


@pytest.fixture(scope="module")
def document(app: FastAPI) -> Any:
    return TestClient(app).get("/openapi.json").json()


def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_is_valid(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_every_route_is_in_it_and_no_others(app: FastAPI, document: Any) -> None:
    served = {
        (method.lower(), path.replace(":path}", "}"))
        for path, methods in all_routes(app.routes).items()
        for method in methods or {"GET"}
        if path != OF_THE_PAGE
    }
    assert served - {each for each in served if each[0] in IMPLIED} <= set(
        operations(document)
    )
    assert set(operations(document)) <= served


def test_names_of_operations_are_unique(document: Any) -> None:
    names = [each["operationId"] for each in operations(document).values()]
    assert len(names) == len(set(names))


def test_operations_say_what_they_do_and_answer(document: Any) -> None:
    for (method, path), operation in operations(document).items():
        assert operation["summary"].strip() == operation["summary"] != "", path
        assert "403" in operation["responses"], path
        assert "422" not in operation["responses"], path
        if operation.get("requestBody", {}).get("required"):
            expected = {"200", "400", "404", "413", "429", "500", "503"}
            assert expected <= set(operation["responses"]), path
        for response in operation["responses"].values():
            assert (method == "head") <= ("content" not in response), path


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/chat/completions", "ErrorAnswer"),
        ("/v1/messages", "MessageErrorAnswer"),
        ("/api/chat", "OllamaErrorAnswer"),
    ],
)
def test_errors_are_in_the_form_of_the_routes_api(
    document: Any, path: str, model: str
) -> None:
    responses = document["paths"][path]["post"]["responses"]
    for status in sorted(set(responses) - {"200"}):
        schema = responses[status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{model}"}
    assert "Retry-After" in responses["429"]["headers"]


def test_a_path_of_two_apis_has_the_answers_of_both(document: Any) -> None:
    operation = document["paths"]["/v1/models"]["get"]
    assert [each["name"] for each in operation["parameters"]] == [
        "anthropic-version",
        "after_id",
        "before_id",
    ]
    for status, models in (
        ("200", ("ModelList", "ModelPage")),
        ("401", ("ErrorAnswer", "MessageErrorAnswer")),
    ):
        answer = operation["responses"][status]["content"]["application/json"]
        assert answer["schema"] == {
            "anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in models]
        }


@pytest.mark.parametrize(
    ("path", "kind", "event"),
    [
        ("/v1/chat/completions", "text/event-stream", "ChatCompletionChunk"),
        ("/v1/completions", "text/event-stream", "CompletionChunk"),
        ("/v1/messages", "text/event-stream", "MessageStart"),
        ("/v1/responses", "text/event-stream", None),
        ("/api/chat", "application/x-ndjson", "OllamaChatAnswer"),
        ("/api/generate", "application/x-ndjson", "OllamaGenerateAnswer"),
    ],
)
def test_streams_have_their_content_type_and_the_schema_of_events(
    document: Any, path: str, kind: str, event: str | None
) -> None:
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", kind}
    if event is not None:
        assert f"#/components/schemas/{event}" in json.dumps(content[kind]["x-event"])


def test_fields_without_effect_and_refused_ones_say_so(document: Any) -> None:
    fields = document["components"]["schemas"]["ChatBody"]["properties"]
    assert fields["priority"]["enum"] == [None, 0]
    assert "requests are served in order" in fields["priority"]["description"]
    assert fields["user"]["description"] == "Has no effect: only keeps books"


def test_a_proxys_path_is_the_servers_url(app: FastAPI) -> None:
    client = TestClient(app, root_path="/llama")
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/llama"}]
