"""How calls are told from the text of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from mllama.errors import RequestError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.output_format import CallableTool, OutputFormat
from mllama.requests.request import GenerationRequest, check_format
from mllama.requests.tool_calls.json_form import CALL_KEYS
from mllama.requests.tool_calls.parser import ToolCallParser, ToolForm
from mllama.requests.tool_calls.tool_choice import Tools

_FORMATS_OF_TEXT: Final = (
    "response_format",
    "text.format",
    "format",
    "output_config.format",
    "output_format.schema",
)
"""Paths of formats that are for answers without calls."""


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """The calls that an answer may have.

    Attributes:
        names: The tools that may be called.
        parallel: Whether an answer may have several calls.  Otherwise it ends with the
            first one.
        form: The form of calls.
    """

    names: Sequence[str]
    parallel: bool = True
    form: ToolForm = "auto"

    def parser(self, choice: int) -> ToolCallParser:
        """Returns a parser of one of the answers."""
        return ToolCallParser(
            self.names, self.form, choice, is_single=not self.parallel
        )


def tool_use_of(prompt: Any, form: ToolForm = "auto") -> ToolUse | None:
    """Returns the calls that answers to a prompt may have; None is none.

    Args:
        prompt: A ``ChatPrompt``, or a raw prompt, which has no tools.
        form: The form in which the model writes calls if nothing forces it.  Forced
            calls, and those of strict tools, are JSON.
    """
    if not isinstance(prompt, ChatPrompt):
        return None
    choice = prompt.callable_tools
    if choice.mode == "none":
        return None
    return ToolUse(
        names=choice.names,
        parallel=prompt.parallel_tool_calls is not False,
        form="llama3_json" if calls_have_grammar(prompt) else form,
    )


def calls_have_grammar(prompt: ChatPrompt) -> bool:
    """Returns True if a grammar keeps calls in form, so that none is withdrawn."""
    choice = prompt.callable_tools
    return choice.mode == "required" or any(map(_is_strict, choice.tools))


def answer_format(request: GenerationRequest) -> OutputFormat | None:
    """Returns the format that answers to a request must have; None is any.

    Forced calls have no text, and so the request's own format doesn't matter.
    Otherwise it is that of answers without calls.

    Raises:
        RequestError: If the format and the tools can't be combined.
    """
    prompt, own = request.prompt, request.output_format
    if not isinstance(prompt, ChatPrompt) or prompt.callable_tools.mode == "none":
        return own
    choice = prompt.callable_tools
    is_strict = any(map(_is_strict, choice.tools))
    is_forced = choice.mode == "required"
    if not (is_forced or is_strict or own):
        return None
    if own is not None and not own.path.startswith(_FORMATS_OF_TEXT):
        raise RequestError(
            f"{own.path} can't be combined with tools: it is for whole answers; set "
            "tool_choice to none, or use response_format",
            own.path,
        )
    if own is not None and is_strict and not is_forced:
        own = _without_calls(own)
    text: OutputFormat | Literal["any"] | None = own or "any"
    made = OutputFormat.tool_calls(
        [_callable(tool, prompt.tools or ()) for tool in choice.tools],
        parallel=prompt.parallel_tool_calls is not False,
        text=None if is_forced else text,
        path="tool_choice" if is_forced else "tools",
    )
    if is_forced:
        check_format(made, request.sampling)
    return made


def _without_calls(output_format: OutputFormat) -> OutputFormat:
    """Returns a format without texts that are read as calls, which no schema checks.

    Raises:
        RequestError: If a schema has such texts.
    """
    if output_format.kind == "json_object":
        return OutputFormat.json_object(not_first=CALL_KEYS, path=output_format.path)
    schema = json.loads(output_format.source or "{}")
    names = list(schema.get("properties", ())) if isinstance(schema, dict) else []
    required = schema.get("required", ()) if names else ()
    first = next((i for i, name in enumerate(names) if name in required), None)
    if first is None or CALL_KEYS & set(names[: first + 1]):
        raise RequestError(
            f"{output_format.path} beside strict tools must be the schema of an object "
            "whose first property is required, and has another name than "
            f"{', '.join(sorted(CALL_KEYS))}: an answer could be read as a call",
            output_format.path,
        )
    return output_format


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return tool["function"].get("strict") is True


def _callable(tool: Mapping[str, Any], tools: Tools) -> CallableTool:
    """Returns what the grammar of a tool's calls is made of."""
    function = tool["function"]
    number = next(number for number, each in enumerate(tools) if each is tool)
    return CallableTool(
        name=function["name"],
        parameters=function.get("parameters"),
        is_strict=_is_strict(tool),
        path=f"tools[{number}].function.parameters",
    )
