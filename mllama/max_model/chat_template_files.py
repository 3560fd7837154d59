"""Finds and reads the files that hold chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import jinja2

from mllama.errors import CheckpointError, MllamaError
from mllama.max_model.template_variables import template_variables

DEFAULT: Final = "default"
TOOL_USE: Final = "tool_use"
"""Names of templates in transformers; the second is for requests with tools."""


def find_chat_templates(directory: Path) -> dict[str, str]:
    """Returns the Jinja sources of a checkpoint's chat templates by name.

    The files are those that transformers' processors read, in the same order:
    ``chat_template.jinja``, ``chat_template.json``, ``processor_config.json``,
    ``tokenizer_config.json``.  A file holds one template, or a list of named ones;
    those beside ``chat_template.jinja`` are in ``additional_chat_templates``.

    Returns:
        The templates with at least the name ``default``; nothing if there is none, as
        for base models.

    Raises:
        CheckpointError: If a file can't be read or is not JSON.
    """
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        named = sorted((directory / "additional_chat_templates").glob("*.jinja"))
        return {
            **{file.stem: _read(file) for file in named},
            DEFAULT: _read(jinja),
        }
    for name in (
        "chat_template.json",
        "processor_config.json",
        "tokenizer_config.json",
    ):
        templates = _templates_in(directory / name)
        if DEFAULT in templates:
            return templates
    return {}


def check_chat_template(path: Path) -> None:
    """Checks the file of ``--chat-template`` before the model is loaded.

    Raises:
        MllamaError: If it can't be read, or holds no valid Jinja.
    """
    try:
        source = path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise MllamaError(
            f"the chat template {path} can't be read: {error.strerror}"
        ) from error
    except ValueError as error:
        raise MllamaError(f"the chat template {path} can't be read: {error}") from error
    try:
        content = json.loads(source)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and "chat_template" in content:
        templates = named_templates(content["chat_template"])
    else:
        templates = {DEFAULT: source}
    if DEFAULT not in templates:
        raise MllamaError(f"{path} holds no chat template")
    try:
        for template in templates.values():
            template_variables(template)
    except jinja2.TemplateError as error:
        raise MllamaError(
            f"the chat template {path} is not valid Jinja: {error}"
        ) from error


def named_templates(value: Any) -> dict[str, str]:
    """Returns templates by name.

    Args:
        value: A template, or several as a list of ``name`` and ``template`` or by name;
            anything else is no template.
    """
    if isinstance(value, list):
        value = {
            item.get("name"): item.get("template")
            for item in value
            if isinstance(item, dict)
        }
    elif not isinstance(value, dict):
        value = {DEFAULT: value}
    return {
        name: source
        for name, source in value.items()
        if isinstance(name, str) and isinstance(source, str)
    }


def _templates_in(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    return (
        named_templates(content.get("chat_template"))
        if isinstance(content, dict)
        else {}
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
