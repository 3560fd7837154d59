"""What Ollama's store has about a model beside its weights."""

from __future__ import annotations

import hashlib

import pytest

from mllama.errors import MllamaError
from mllama.weights.ollama.stored_settings import read_settings
from tests.weights.ollama.store_writer import Store


def test_all_settings_of_a_model_are_read(store: Store) -> None:
    manifest = store.add(
        [
            store.layer("model", b"weights"),
            store.layer("params", b'{"temperature": 0.7, "stop": ["<|eot_id|>"]}'),
            store.layer("system", b"Be brief."),
            store.layer("template", b"{{ .Prompt }}"),
            store.layer("license", b"one"),
            store.layer("license", b"two"),
        ]
    )
    settings = read_settings("ollama:vision")
    assert settings.name == "vision:latest"
    assert settings.digest == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert settings.parameters == {
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["<|eot_id|>"],
    }
    assert (settings.system, settings.template) == ("Be brief.", "{{ .Prompt }}")
    assert settings.license == "one\ntwo"


def test_a_model_without_settings_has_those_of_ollamas_library(store: Store) -> None:
    store.add([store.layer("model", b"weights")])
    settings = read_settings("vision")
    assert settings.parameters == {"temperature": 0.6, "top_p": 0.9}
    assert (settings.system, settings.template, settings.license) == ("", "", "")


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 10_000])
def test_damaged_parameters_are_refused(store: Store, content: bytes) -> None:
    store.add([store.layer("model", b"weights"), store.layer("params", content)])
    with pytest.raises(MllamaError, match="ollama:vision:latest are no JSON object"):
        read_settings("ollama:vision")


def test_a_missing_blob_is_named(store: Store) -> None:
    layer = store.layer("system", b"Be brief.")
    store.add([store.layer("model", b"weights"), layer])
    store.blob(layer).unlink()
    with pytest.raises(MllamaError, match=f"lacks its blob {layer['digest']}"):
        read_settings("ollama:vision")


def test_a_blob_that_is_too_large_is_refused(store: Store) -> None:
    layer = store.layer("system", b"x" * ((1 << 20) + 1))
    store.add([store.layer("model", b"weights"), layer])
    with pytest.raises(MllamaError, match="more than 1048576 bytes"):
        read_settings("ollama:vision")
