"""Inspects and renders the checkpoint's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from mllama.errors import CheckpointError, MllamaError, quoted
from mllama.max_model.chat_template_files import DEFAULT, TOOL_USE
from mllama.max_model.template_variables import template_variables

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

_VARIABLES: Final = "chat_template_kwargs"


class ChatTemplateError(MllamaError):
    """The template rejects the messages, or can't show them.

    Attributes:
        param: The part of a request that is wrong, by its name in OpenAI's API.
    """

    def __init__(self, message: str, param: str = "messages") -> None:
        super().__init__(message)
        self.param = param


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
        try:
            self._variables = {
                name: template_variables(source)
                for name, source in self._sources.items()
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
            raise ChatTemplateError("template variables must be an object", _VARIABLES)
        readable = (
            self._variables[self._name(has_tools)]
            - _GIVEN_BY_ENGINE
            - self._special_tokens.keys()
        )
        for name, value in variables.items():
            if name not in readable:
                known = ", ".join(sorted(readable)) or "none"
                raise ChatTemplateError(
                    f"{quoted(name)} is not a variable that requests can give to this "
                    f"chat template (those are: {known})",
                    _VARIABLES,
                )
            if not _is_plain(value):
                raise ChatTemplateError(
                    f"the template variable {name} must be plain data, as in JSON",
                    _VARIABLES,
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


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))
