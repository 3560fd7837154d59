"""Models, tokens, names, errors of unknown routes, and the schema."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.answers import (
    Detokenized,
    Model,
    ModelList,
    Tokenized,
)
from tests.server.dialects.fake_engine import BEGIN, VOCABULARY

from .conftest import USER, Api, error_of

META = "meta-llama/Llama-3.2-11B-Vision-Instruct"


def serving(name: str) -> Api:
    return Api(capabilities=ServerCapabilities(model_name=name, vocabulary=VOCABULARY))


def test_the_served_model_is_listed(api: Api) -> None:
    answer = api.request("GET", "/v1/models").json()
    ModelList.model_validate(answer, strict=True)
    (model,) = answer["data"]
    assert model["id"] == "served"
    assert model["max_model_len"] == 4096
    assert model["attention"] is False


@pytest.mark.parametrize("name", ["served", META, META.replace("/", "%2F")])
def test_a_model_is_found_by_its_names(api: Api, name: str) -> None:
    answer = api.request("GET", f"/v1/models/{name}").json()
    Model.model_validate(answer, strict=True)
    assert answer["id"] == "served"


@pytest.mark.parametrize(
    ("served", "name"),
    [
        ("served", "served"),
        ("served", ""),
        ("served", None),
        ("org/name", "org/name"),
        *[("served", name) for name in (META, META.replace("11B", "90B"))],
        ("served", META.removesuffix("-Instruct")),
        *[
            ("served", f"{prefix}llama3.2-vision{tag}")
            for prefix in ("", "ollama:")
            for tag in ("", ":latest", ":11b", ":11b-instruct-q4_K_M")
        ],
        *[
            (served, name)
            for served in ("ollama:mine", "ollama:mine:latest")
            for name in ("mine", "mine:latest", "ollama:mine", "ollama:mine:latest")
        ],
        ("ollama:me/mine:v2", "me/mine:v2"),
    ],
)
def test_a_request_may_use_each_of_the_models_names(
    served: str, name: str | None
) -> None:
    api = serving(served)
    answer = api.chat(model=name)
    assert answer.status_code == 200
    assert answer.json()["model"] == served


@pytest.mark.parametrize(
    ("served", "name"),
    [
        ("served", "gpt-4o"),
        ("served", "Served"),
        ("served", "llama3.2"),
        ("served", "llama3.2-vision:"),
        ("served", "llama3.2-vision-mine"),
        ("mine", "mine:latest"),
        ("ollama:mine", "mine:v2"),
        ("ollama:me/mine:v2", "me/mine"),
    ],
)
def test_another_models_name_is_refused(served: str, name: str) -> None:
    api = serving(served)
    for response in (
        api.chat(model=name),
        api.complete(model=name),
        api.request("GET", f"/v1/models/{name}"),
        api.post("/tokenize", {"prompt": "x", "model": name}),
        api.post("/detokenize", {"tokens": [1], "model": name}),
    ):
        error = error_of(response, 404)
        assert error["code"] == "model_not_found"
        assert served in error["message"]


def test_a_model_is_a_string(api: Api) -> None:
    assert error_of(api.chat(model=5))["param"] == "model"


def test_text_becomes_tokens_and_text_again(api: Api) -> None:
    answer = api.post("/tokenize", {"prompt": "ü", "return_token_strs": True}).json()
    Tokenized.model_validate(answer, strict=True)
    assert answer == {
        "count": 3,
        "max_model_len": 4096,
        "tokens": [BEGIN, 195, 188],
        "token_strs": ["<|begin|>", "\\xc3", "\\xbc"],
    }
    answer = api.post("/detokenize", {"tokens": answer["tokens"]}).json()
    Detokenized.model_validate(answer, strict=True)
    assert answer == {"prompt": "<|begin|>ü"}


def test_the_tokens_before_every_text_may_be_left_out(api: Api) -> None:
    body = {"prompt": "Hi", "add_special_tokens": False}
    assert api.post("/tokenize", body).json()["tokens"] == [72, 105]


def test_a_conversation_becomes_tokens(api: Api) -> None:
    answer = api.post("/tokenize", {"messages": [USER]}).json()
    assert answer["tokens"] == [BEGIN, 72, 105]


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "mode": 1}, "mode"),
        ("/tokenize", {"messages": [USER], "prompt": "x"}, "prompt"),
        (
            "/tokenize",
            {"messages": [USER], "add_special_tokens": True},
            "add_special_tokens",
        ),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [VOCABULARY]}, "tokens[0]"),
        ("/detokenize", {"tokens": ["1"]}, "tokens[0]"),
    ],
)
def test_wrong_bodies_of_the_tokenizer_are_named(
    api: Api, path: str, body: Any, where: str
) -> None:
    assert error_of(api.post(path, body))["param"] == where


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/responses", 405),
        ("GET", "/v1/responses/resp_1", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/served", 405),
    ],
)
def test_errors_of_unknown_routes_have_the_same_form(
    api: Api, method: str, path: str, status: int
) -> None:
    response = api.request(method, path)
    error = error_of(response, status)
    assert error["type"] == "invalid_request_error"
    assert path in error["message"]
    assert ("allow" in response.headers) == (status == 405)


def test_the_schema_has_all_bodies_and_answers(api: Api) -> None:
    schema = api.request("GET", "/openapi.json").json()
    components = schema["components"]["schemas"]
    for path, body, answer in (
        ("/v1/chat/completions", "ChatBody", "ChatCompletion"),
        ("/v1/completions", "CompletionBody", "Completion"),
        ("/detokenize", "DetokenizeBody", "Detokenized"),
    ):
        route = schema["paths"][path]["post"]
        found = route["requestBody"]["content"]["application/json"]["schema"]
        assert found == {"$ref": f"#/components/schemas/{body}"}
        assert components[body]["properties"]
        found = route["responses"]["200"]["content"]["application/json"]["schema"]
        assert found == {"$ref": f"#/components/schemas/{answer}"}
    assert "ErrorAnswer" in components
    assert references(schema) <= {f"#/components/schemas/{name}" for name in components}
    fields = components["ChatBody"]["properties"]
    assert fields["temperature"]["anyOf"][0] == {
        "maximum": 2,
        "minimum": 0,
        "type": "number",
    }


def references(value: Any) -> set[str]:
    """All references in a schema."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()
