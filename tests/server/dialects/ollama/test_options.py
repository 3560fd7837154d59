"""Options and formats reach the engine, or are refused by name."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from mllama.errors import MllamaError
from mllama.server.capabilities import ServerCapabilities
from mllama.server.model_description import ModelDescription
from mllama.weights.ollama.stored_settings import StoredSettings
from tests.server.dialects.fake_engine import VOCABULARY, FakeEngine

from .conftest import USER, Api, answer_of, error_of


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({}, "temperature", None),
        ({}, "top_k", None),
        ({"temperature": 0}, "temperature", 0),
        ({"temperature": 0.5}, "temperature", 0.5),
        ({"top_k": 40}, "top_k", 40),
        ({"top_k": 40.0}, "top_k", 40),
        ({"top_k": 0}, "top_k", -1),
        ({"top_p": 0.9}, "top_p", 0.9),
        ({"min_p": 0.1}, "min_p", 0.1),
        ({"seed": 7}, "seed", 7),
        ({"seed": -1}, "seed", None),
        ({"num_predict": 3}, "max_new_tokens", 3),
        ({"num_predict": 0}, "max_new_tokens", 0),
        ({"num_predict": -1}, "max_new_tokens", -1),
        ({"num_predict": -2}, "max_new_tokens", -1),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
        ({"stop": "a"}, "stop", ("a",)),
        ({"repeat_penalty": 1.05}, "repetition_penalty", 1.05),
        ({"presence_penalty": 0.3}, "presence_penalty", 0.3),
        ({"frequency_penalty": 0.3}, "frequency_penalty", 0.3),
        ({"frequency_penalty": 1, "repeat_last_n": 0}, "frequency_penalty", 0),
        ({"repeat_penalty": 2, "repeat_last_n": 0}, "repetition_penalty", None),
        ({"repeat_penalty": 2, "repeat_last_n": -1}, "repetition_penalty", 2),
        ({"repeat_penalty": 1.0, "repeat_last_n": 64}, "repetition_penalty", 1),
        ({"temperature": None}, "temperature", None),
    ],
)
def test_an_option_reaches_the_engine(
    api: Api, options: Any, name: str, value: Any
) -> None:
    answer_of(api.chat(options=options))
    assert getattr(api.last.sampling, name) == value
    answer_of(api.generate(options=options))
    assert getattr(api.last.sampling, name) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 3}, "`options.temperature` must be at most 2"),
        ({"temperature": "0.5"}, "`options.temperature` must be a number"),
        ({"top_k": 1.5}, "`options.top_k` must be an integer"),
        ({"top_p": 2}, "`options.top_p` must be at most 1"),
        ({"stop": [1]}, "`options.stop[0]` must be a string"),
        ({"repeat_penalty": 0}, "`options.repeat_penalty` must be greater than 0"),
        ({"repeat_last_n": 64, "repeat_penalty": 2}, "`options.repeat_last_n`"),
        ({"repeat_last_n": 64, "presence_penalty": 1}, "`options.presence_penalty`"),
        ({"mirostat": 1}, "`options.mirostat` is not supported"),
        ({"mirostat": 2}, "`options.mirostat` is not supported"),
        ({"tfs_z": 0.5}, "`options.tfs_z` is not supported"),
        ({"typical_p": 0.7}, "`options.typical_p` is not supported"),
        ({"penalize_newline": False}, "`options.penalize_newline` is not supported"),
        ({"temprature": 1}, "`options.temprature` is not a field"),
        ({"stop": "a", "num_predict": True}, "`options.num_predict`"),
    ],
)
def test_an_option_is_refused_by_name(api: Api, options: Any, message: str) -> None:
    assert message in error_of(api.chat(options=options))


def test_options_that_are_off_or_about_the_machine_pass(api: Api) -> None:
    options = {
        "mirostat": 0,
        "mirostat_eta": 0.1,
        "mirostat_tau": 5.0,
        "tfs_z": 1.0,
        "typical_p": 1,
        "penalize_newline": True,
        "num_keep": 24,
        "num_gpu": 99,
        "main_gpu": 0,
        "num_thread": 8,
        "num_batch": 512,
        "num_gqa": 8,
        "use_mmap": True,
        "use_mlock": False,
        "low_vram": False,
        "f16_kv": True,
        "numa": False,
        "logits_all": False,
        "vocab_only": False,
        "embedding_only": False,
        "draft_num_predict": 4,
    }
    answer_of(api.chat(options={}))
    plain = api.last.sampling
    answer_of(api.chat(options=options))
    assert api.last.sampling == plain
    for name in ("truncate", "shift"):
        answer_of(api.chat(**{name: True}))


def test_a_longer_context_than_the_servers_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = Api()
    caplog.set_level(logging.WARNING, "mllama")
    for context in (0, 2048, 4096, 4096.0):
        answer_of(api.chat(options={"num_ctx": context}))
    assert not caplog.messages
    for context in (8192, 8192, 131072):
        answer_of(api.chat(options={"num_ctx": context}))
    (line,) = caplog.messages
    assert "8192 tokens" in line
    assert "4096" in line


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_a_format_is_json_or_a_schema(api: Api) -> None:
    answer_of(api.chat(format="json"))
    assert api.last.output_format is not None
    assert api.last.output_format.kind == "json_object"
    answer_of(api.generate(format=SCHEMA))
    made = api.last.output_format
    assert made is not None
    assert (made.kind, made.is_strict, made.path) == ("json_schema", True, "format")
    assert json.loads(made.source) == SCHEMA
    for none in ("", None):
        answer_of(api.chat(format=none))
        assert api.last.output_format is None
    answer_of(api.chat(format={}))
    assert api.last.output_format is not None
    for wrong in ("yaml", 1, []):
        assert "`format` must be" in error_of(api.chat(format=wrong))


def test_a_stop_beside_a_format_is_refused(api: Api) -> None:
    response = api.chat(format="json", options={"stop": ["a"]})
    assert "stop can't be combined with format" in error_of(response)


def stored_api(**settings: Any) -> Api:
    """A server of a model that comes from Ollama's store."""
    capabilities = ServerCapabilities(
        model_name="ollama:vision",
        vocabulary=VOCABULARY,
        description=ModelDescription(
            stored=StoredSettings("vision:latest", **settings)
        ),
    )
    return Api(FakeEngine(), capabilities)


def test_a_model_of_ollamas_store_has_ollamas_defaults() -> None:
    api = stored_api()
    answer_of(api.chat(model="vision"))
    assert (api.last.sampling.temperature, api.last.sampling.top_p) == (0.6, 0.9)
    answer_of(api.chat(model="vision:latest", options={"temperature": 0}))
    assert (api.last.sampling.temperature, api.last.sampling.top_p) == (0, 0.9)
    answer_of(api.generate(model="ollama:vision"))
    assert api.last.sampling.temperature == 0.6


def test_other_models_have_the_servers_defaults(api: Api) -> None:
    answer_of(api.chat())
    assert (api.last.sampling.temperature, api.last.sampling.top_p) == (None, None)


def test_parameters_of_the_store_hold_where_a_request_leaves_them_open() -> None:
    parameters = {"temperature": 1.5, "stop": ["<|end|>"], "num_ctx": 99, "old": 1}
    api = stored_api(parameters=parameters)
    answer_of(api.chat(model="vision"))
    assert api.last.sampling.temperature == 1.5
    assert api.last.sampling.stop == ("<|end|>",)
    answer_of(api.chat(model="vision", options={"stop": []}))
    assert api.last.sampling.stop == ()
    # The format ends the answer.
    answer_of(api.chat(model="vision", format="json"))
    assert api.last.sampling.stop == ()


def test_parameters_that_cannot_be_honored_keep_the_server_from_starting() -> None:
    with pytest.raises(MllamaError, match=r"Ollama's store: `mirostat` is not"):
        stored_api(parameters={"mirostat": 2}).app()


def test_a_system_prompt_of_the_store_is_for_requests_without_one() -> None:
    api = stored_api(system="Be brief.")
    system = {"role": "system", "content": "Be brief."}
    answer_of(api.chat(model="vision"))
    assert api.prompt.messages == [system, USER]
    answer_of(api.generate(model="vision"))
    assert api.prompt.messages == [system, USER]
    other = {"role": "system", "content": "Be long."}
    answer_of(api.chat(model="vision", messages=[other, USER]))
    assert api.prompt.messages == [other, USER]
    answer_of(api.generate(model="vision", system="Be long."))
    assert api.prompt.messages == [other, USER]
    answer_of(api.generate(model="vision", raw=True))
    assert api.last.prompt == "Hi"
