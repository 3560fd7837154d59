"""The option tables are what the code does, and what is made of them is current."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import pytest

from docs.api_fields import with_tables
from docs.reference import (
    API_PAGES,
    LLM_FILES,
    PAGE,
    options_page,
    with_descriptions,
)
from mllama import LLM
from mllama.cli.command_table import ALL_OPTIONS
from mllama.cli.main import group
from mllama.launch.model_options import MODEL_OPTIONS
from mllama.launch.option import Option
from mllama.launch.options import EngineOptions
from mllama.launch.prompt_options import PROMPT_OPTIONS
from mllama.launch.sampling_options import SAMPLING_OPTIONS
from mllama.max_model.settings import DEFAULT_MAX_IMAGES
from mllama.requests.chat_prompt import ChatPromptOptions
from mllama.requests.request import ChatFields
from mllama.requests.sampling_params import Sampling
from mllama.weights.quantization_plan import GGUF_ENCODINGS

OPTIONS = {
    option.name: option
    for option in (*MODEL_OPTIONS, *PROMPT_OPTIONS, *SAMPLING_OPTIONS)
}


def python_default(option: Option) -> Any:
    return None if option.python_default_text else option.default


@pytest.mark.parametrize("page", API_PAGES, ids=lambda page: page.name)
def test_the_tables_of_the_apis_fields_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_tables(text, API_PAGES[page]) == text, "run `python -m docs.reference`"


def test_the_reference_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == options_page(), "run make reference"


@pytest.mark.parametrize("file", LLM_FILES, ids=lambda file: file.name)
def test_the_docstrings_of_llm_are_current(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert source == with_descriptions(source), "run make reference"


def test_python_takes_the_options_with_their_defaults() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(LLM).parameters.items()
        if name != "quiet"
    }
    assert defaults == {
        option.name: python_default(option)
        for option in MODEL_OPTIONS
        if "LLM" in option.takers
    }
    for name in defaults:
        assert f"    {name}: " in str(inspect.getdoc(LLM))


def test_a_chat_takes_the_settings_of_the_tables() -> None:
    settings = {option.name for option in (*PROMPT_OPTIONS, *SAMPLING_OPTIONS)}
    assert ChatFields.__optional_keys__ == settings
    for name in settings:
        assert f"    {name}: " in str(inspect.getdoc(LLM.chat))


@pytest.mark.parametrize("settings", [EngineOptions, Sampling, ChatPromptOptions])
def test_settings_have_the_defaults_of_the_table(settings: Any) -> None:
    for field in fields(settings):
        assert field.default is not MISSING
        assert field.default == python_default(OPTIONS[field.name])


def test_every_option_of_a_start_is_one_of_the_engine() -> None:
    names = {field.name for field in fields(EngineOptions)}
    assert names == {option.name for option in MODEL_OPTIONS}


@pytest.mark.parametrize(
    "command", ["generate", "chat", "batch", "compile", "quantize"]
)
def test_commands_take_the_options_of_the_table_and_no_others(command: str) -> None:
    made = group.get_command(click.Context(group), command)
    assert made is not None
    options = [each for each in made.params if isinstance(each, click.Option)]
    expected = [option for option in ALL_OPTIONS if command in option.takers]
    assert [each.name for each in options] == [option.name for option in expected]
    for each, option in zip(options, expected, strict=True):
        assert option.option_name in each.opts
        assert option.description in str(each.help)
        assert each.required == option.required


def test_fixed_values_are_those_of_the_code() -> None:
    assert OPTIONS["max_images_per_request"].default_text == str(DEFAULT_MAX_IMAGES)
    (encoding,) = [option for option in ALL_OPTIONS if option.name == "encoding"]
    assert encoding.choices == tuple(GGUF_ENCODINGS)
