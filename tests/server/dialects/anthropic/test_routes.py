"""Models, errors of unknown routes, and the schema."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from mllama.server.dialects.anthropic.answers import MessageErrorAnswer, ModelPage
from mllama.server.dialects.openai.answers import ModelList
from mllama.server.errors import ErrorReport
from mllama.server.routes import error_form

from .conftest import Api, error_of

VERSION = {"anthropic-version": "2023-06-01"}


def get(api: Api, path: str, **options: Any) -> httpx.Response:
    return api.request("GET", path, headers=VERSION, **options)


def test_the_served_model_is_listed_in_the_form_of_the_client(api: Api) -> None:
    page = get(api, "/v1/models").json()
    ModelPage.model_validate(page, strict=True)
    (model,) = page["data"]
    assert model["id"] == page["first_id"] == page["last_id"] == "served"
    assert model["created_at"] == "1970-01-01T00:00:01Z"
    assert model["max_input_tokens"] == 4096
    assert get(api, "/v1/models/served").json() == model
    assert get(api, "/v1/models/meta-llama/Llama-3.2-11B-Vision").json() == model
    ModelList.model_validate(api.request("GET", "/v1/models").json(), strict=True)


def test_there_is_no_second_page_of_models(api: Api) -> None:
    for name in ("after_id", "before_id"):
        page = get(api, "/v1/models", params={name: "served", "limit": 5}).json()
        ModelPage.model_validate(page, strict=True)
        assert page == {
            "data": [],
            "has_more": False,
            "first_id": None,
            "last_id": None,
        }


def test_another_models_name_is_refused_in_the_form_of_the_client(api: Api) -> None:
    error = error_of(get(api, "/v1/models/claude-sonnet-4-5"), 404)
    assert error["type"] == "not_found_error"
    openai = api.request("GET", "/v1/models/claude-sonnet-4-5").json()
    assert openai["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("GET", "/v1/messages/count_tokens", 405, "invalid_request_error"),
    ],
)
def test_errors_of_unknown_routes_have_the_same_form(
    api: Api, method: str, path: str, status: int, kind: str
) -> None:
    response = api.request(method, path)
    error = error_of(response, status)
    assert error["type"] == kind
    assert path in error["message"]


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "authentication_error"), (403, "permission_error")]
)
def test_refused_access_has_the_same_form(status: int, kind: str) -> None:
    report = ErrorReport(status, "Who is there?")
    answer = error_form({"path": "/v1/messages", "headers": []}).content(report)
    MessageErrorAnswer.model_validate(answer, strict=True)
    assert answer["error"]["type"] == kind


@pytest.mark.parametrize("path", ["/v1/messagesx", "/v1/message"])
def test_other_paths_have_their_own_form(api: Api, path: str) -> None:
    assert "param" in api.request("POST", path).json()["error"]


def test_the_schema_has_the_bodies_and_answers(api: Api) -> None:
    schema = api.request("GET", "/openapi.json").json()
    components = schema["components"]["schemas"]
    for path, body, answer in (
        ("/v1/messages", "MessageBody", "Message"),
        ("/v1/messages/count_tokens", "CountTokensBody", "TokenCount"),
    ):
        route = schema["paths"][path]["post"]
        found = route["requestBody"]["content"]["application/json"]["schema"]
        assert found == {"$ref": f"#/components/schemas/{body}"}
        assert components[body]["properties"]["messages"]
        found = route["responses"]["200"]["content"]["application/json"]["schema"]
        assert found == {"$ref": f"#/components/schemas/{answer}"}
        assert components[answer]["properties"]
    assert MessageErrorAnswer.__name__ in components
