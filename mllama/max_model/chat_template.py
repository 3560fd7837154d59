"""Finds, inspects and renders the checkpoint's chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import jinja2
import jinja2.ext
import jinja2.meta
from transformers.utils.chat_template_utils import render_jinja_template

from mllama.errors import CheckpointError, MllamaError

DEFAULT: Final = "default"
TOOL_USE: Final = "tool_use"
"""Names of templates in transformers; the second is for requests with tools."""

_GIVEN_BY_ENGINE: Final = frozenset(
    {
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "raise_exception",
        "strftime_now",
        *jinja2.defaults.DEFAULT_NAMESPACE,
    }
)
"""Variables of a template that a request can't set."""


class ChatTemplateError(MllamaError):
    """The template rejects the messages, or can't show them."""


class _GenerationTag(jinja2.ext.Extension):
    """Parses transformers' ``{% generation %}`` block, which marks answers."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A checkpoint's chat templates: the default, and the one for tools if it has one.

    Args:
        sources: Jinja sources by name, at least ``default``.
        special_tokens: Variables that hold a special token, such as ``bos_token``.

    Raises:
        CheckpointError: If a template isn't valid Jinja.
    """

    def __init__(
        self, sources: Mapping[str, str], special_tokens: Mapping[str, Any]
    ) -> None:
        self._sources = {
            name: sources[name] for name in (DEFAULT, TOOL_USE) if name in sources
        }
        self._special_tokens = dict(special_tokens)
        parser = jinja2.Environment(
            extensions=[jinja2.ext.loopcontrols, _GenerationTag]
        )
        try:
            self._variables = {
                name: frozenset(
                    jinja2.meta.find_undeclared_variables(parser.parse(text))
                )
                for name, text in self._sources.items()
            }
        except jinja2.TemplateError as error:
            raise CheckpointError(
                f"the chat template is not valid Jinja: {error}"
            ) from error

    @cached_property
    def text(self) -> str:
        """The sources of all templates."""
        return "\n".join(self._sources.values())

    def takes_tools(self) -> bool:
        """Returns True if a request's tools reach the prompt's template."""
        return "tools" in self._variables[self._name(has_tools=True)]

    def check_variables(self, variables: Mapping[str, Any], has_tools: bool) -> None:
        """Checks variables that a request gives to the template.

        Args:
            variables: The values by name.
            has_tools: Whether the request has tools.

        Raises:
            ChatTemplateError: If the engine sets a variable itself, the template
                doesn't read it, or its value isn't plain data.
        """
        if not isinstance(variables, Mapping):
            raise ChatTemplateError("template variables must be an object")
        readable = (
            self._variables[self._name(has_tools)]
            - _GIVEN_BY_ENGINE
            - self._special_tokens.keys()
        )
        for name, value in variables.items():
            if name not in readable:
                known = ", ".join(sorted(readable)) or "none"
                raise ChatTemplateError(
                    f"{_short(name)} is not a variable that requests can give to this "
                    f"chat template (those are: {known})"
                )
            if not _is_plain(value):
                raise ChatTemplateError(
                    f"the template variable {name} must be plain data, as in JSON"
                )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        add_generation_prompt: bool,
    ) -> str:
        """Renders messages in Jinja's sandbox.

        Args:
            messages: The messages in order, in the form that the template takes.
            tools: Tools that the template describes to the model.
            variables: The request's own variables.
            add_generation_prompt: Whether the prompt ends in the header of the
                answer's turn.

        Raises:
            ChatTemplateError: If the template rejects the messages.
        """
        try:
            rendered, _ = render_jinja_template(
                conversations=[list(messages)],
                tools=list(tools) if tools else None,
                chat_template=self._sources[self._name(bool(tools))],
                add_generation_prompt=add_generation_prompt,
                **{**self._special_tokens, **variables},
            )
        except Exception as error:
            # A template can raise anything, and so can Jinja.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ChatTemplateError(
                f"the chat template rejects the messages: {reason}"
            ) from error
        return str(rendered[0])

    def _name(self, has_tools: bool) -> str:
        return TOOL_USE if has_tools and TOOL_USE in self._sources else DEFAULT


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


def _templates_in(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    template: Any = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(template, list):
        # Some tokenizers keep several templates by name.
        template = {
            item.get("name"): item.get("template")
            for item in template
            if isinstance(item, dict)
        }
    elif not isinstance(template, dict):
        template = {DEFAULT: template}
    return {
        name: source
        for name, source in template.items()
        if isinstance(name, str) and isinstance(source, str)
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))


def _short(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:80]}..."
