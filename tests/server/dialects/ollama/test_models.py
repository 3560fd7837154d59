"""What the server says about itself and its model, and what it refuses."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from mllama.config import MllamaConfig
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.ollama.answers import (
    OllamaProcessesAnswer,
    OllamaShowAnswer,
    OllamaTagsAnswer,
    OllamaVersionAnswer,
)
from mllama.server.model_description import ModelDescription
from mllama.weights.ollama.stored_settings import StoredSettings
from tests.server.dialects.fake_engine import VOCABULARY, FakeEngine

from .conftest import Api, error_of

DESCRIPTION = ModelDescription(
    config=MllamaConfig(),
    file_format="gguf",
    encoding="q4_k",
    size=7_816_589_186,
    digest="6f2f9757ae97e8a3f8ea33d6adb2b11d93d9a35bef277cd2c0b1b5af8e8d0b1e",
    modified=1_700_000_000.5,
)


def described(**settings: Any) -> Api:
    """A server of a model with these capabilities."""
    known = {"model_name": "served", "description": DESCRIPTION, "max_length": 4096}
    capabilities = ServerCapabilities(
        **{**known, "vocabulary": VOCABULARY, **settings}  # type: ignore[arg-type]
    )
    return Api(FakeEngine(), capabilities)


def test_the_server_is_up_in_ollamas_words(api: Api) -> None:
    assert api.request("GET", "/").text == "Ollama is running"
    for path in ("/", "/api/version", "/api/tags"):
        assert api.request("HEAD", path).status_code == 200


def test_the_version_is_one_of_ollamas(api: Api) -> None:
    answer = api.request("GET", "/api/version").json()
    OllamaVersionAnswer.model_validate(answer, strict=True)
    # Clients compare its parts as numbers.
    assert [int(part) for part in answer["version"].split(".")] >= [0, 9, 0]


def test_the_list_of_models_has_the_served_one() -> None:
    answer = described().request("GET", "/api/tags").json()
    OllamaTagsAnswer.model_validate(answer, strict=True)
    (model,) = answer["models"]
    assert model["name"] == model["model"] == "served:latest"
    assert model["size"] == 7_816_589_186
    assert model["digest"] == DESCRIPTION.digest
    assert model["capabilities"] == ["completion", "vision", "tools"]
    assert datetime.fromisoformat(model["modified_at"].replace("Z", "+00:00"))
    details = model["details"]
    assert (details["family"], details["families"]) == ("mllama", ["mllama"])
    assert (details["format"], details["quantization_level"]) == ("gguf", "Q4_K")
    assert details["parameter_size"] == "10.6B"


@pytest.mark.parametrize(
    ("served", "shown"),
    [
        ("served", "served:latest"),
        ("ollama:llama3.2-vision", "llama3.2-vision:latest"),
        ("ollama:llama3.2-vision:11b", "llama3.2-vision:11b"),
        ("meta-llama/Llama-3.2-11B", "meta-llama/Llama-3.2-11B:latest"),
        ("/models/a:b/c", "/models/a:b/c:latest"),
    ],
)
def test_a_listed_name_has_a_tag_and_is_answered(served: str, shown: str) -> None:
    api = described(model_name=served)
    (model,) = api.request("GET", "/api/tags").json()["models"]
    assert model["model"] == shown
    assert api.chat(model=shown).status_code == 200
    assert api.post("/api/show", {"model": shown}).status_code == 200


def test_the_model_is_always_loaded() -> None:
    api = described()
    answer = api.request("GET", "/api/ps").json()
    OllamaProcessesAnswer.model_validate(answer, strict=True)
    (model,) = answer["models"]
    assert (model["size_vram"], model["context_length"]) == (0, 4096)
    expires = datetime.fromisoformat(model["expires_at"].replace("Z", "+00:00"))
    assert expires.year > 2100
    on_gpu = ModelDescription(size=5, is_on_gpu=True)
    (model,) = described(description=on_gpu).request("GET", "/api/ps").json()["models"]
    assert model["size_vram"] == 5


def test_a_model_is_described() -> None:
    api = described(chat_template="{{ messages }} {{ tools }}")
    for body in ({"model": "served"}, {"name": "llama3.2-vision", "verbose": True}):
        answer = api.post("/api/show", body).json()
        OllamaShowAnswer.model_validate(answer, strict=True)
        info = answer["model_info"]
        assert info["general.architecture"] == "mllama"
        assert info["general.parameter_count"] == DESCRIPTION.parameter_count
        # Clients take this for the context that requests may use.
        assert info["mllama.context_length"] == 4096
        assert info["mllama.embedding_length"] == 4096
        assert answer["template"] == "{{ messages }} {{ tools }}"
        assert "FROM served:latest" in answer["modelfile"]
        assert answer["capabilities"] == ["completion", "vision", "tools"]
        assert answer["parameters"] == ""


def test_what_a_model_cannot_do_is_not_listed() -> None:
    api = described(takes_tools=False, max_images=0)
    answer = api.post("/api/show", {"model": "served"}).json()
    assert answer["capabilities"] == ["completion"]


def test_settings_of_ollamas_store_are_shown() -> None:
    parameters = {"temperature": 0.6, "stop": ["<|a|>", "<|b|>"]}
    stored = StoredSettings(
        "vision:latest", parameters=parameters, system="Be brief.", license="Free."
    )
    api = described(
        model_name="ollama:vision", description=ModelDescription(stored=stored)
    )
    answer = api.post("/api/show", {"model": "vision"}).json()
    OllamaShowAnswer.model_validate(answer, strict=True)
    lines = [line.split() for line in answer["parameters"].splitlines()]
    assert lines == [["temperature", "0.6"], ["stop", '"<|a|>"'], ["stop", '"<|b|>"']]
    assert 'PARAMETER stop "<|b|>"' in answer["modelfile"]
    assert (answer["system"], answer["license"]) == ("Be brief.", "Free.")


def test_another_model_is_not_described(api: Api) -> None:
    response = api.post("/api/show", {"model": "llava"})
    assert error_of(response, 404) == "model 'llava' not found"
    assert error_of(api.post("/api/show", {})) == "model is required"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/embed"),
        ("POST", "/api/embeddings"),
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
    ],
)
def test_what_the_server_does_not_do_is_refused(
    api: Api, method: str, path: str
) -> None:
    response = api.request(method, path, content=b'{"model": "served"}')
    message = error_of(response)
    assert "/".join(path.split("/")[:3]) in message
    assert "; " in message


def test_blobs_are_not_there(api: Api) -> None:
    assert api.request("HEAD", "/api/blobs/sha256:00").status_code == 400


def test_errors_of_all_paths_have_ollamas_form(api: Api) -> None:
    assert "/api/nothing" in error_of(api.request("GET", "/api/nothing"), 404)
    assert "takes POST" in error_of(api.request("GET", "/api/chat"), 405)
    assert "JSON" in error_of(api.post("/api/chat", b"{"))
    assert "object" in error_of(api.post("/api/generate", b"[]"))
    other = api.request("GET", "/apis").json()["error"]
    assert other["type"] == "invalid_request_error"
