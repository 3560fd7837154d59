"""Which tools an answer may call: OpenAI's ``tool_choice``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mllama.errors import RequestError, quoted

Tools = Sequence[Mapping[str, Any]]
"""Tools in OpenAI's form: ``{"type": "function", "function": {"name": ..., ...}}``."""

Mode = Literal["none", "auto", "required"]


@dataclass(frozen=True)
class ToolChoice:
    """Whether an answer may or must call tools, and which.

    Attributes:
        mode: ``none`` is no tool, ``auto`` lets the model choose, and ``required``
            forces at least one call.
        tools: The tools that may be called, in order.
    """

    mode: Mode
    tools: Tools

    @property
    def names(self) -> list[str]:
        """Returns the names of the tools that may be called."""
        return [tool["function"]["name"] for tool in self.tools]

    @classmethod
    def of(cls, choice: Any, tools: Tools | None) -> ToolChoice:
        """Returns the choice that a request makes.

        Args:
            choice: ``"none"``, ``"auto"``, ``"required"``, the name of a tool,
                ``{"type": "function", "function": {"name": ...}}``, ``{"type":
                "allowed_tools", "allowed_tools": {"mode": "auto" or "required",
                "tools": [...]}}``, or None for the default, which is ``auto``.
            tools: The request's tools, in a valid form.

        Raises:
            RequestError: If it is none of these, or is about tools that the request
                doesn't have.
        """
        tools = tools or ()
        _check_names(tools)
        if choice is None or choice == "auto":
            return cls("auto", tools) if tools else cls("none", ())
        if choice == "none":
            return cls("none", ())
        if choice == "required":
            return cls("required", _some(tools))
        for tool in tools:
            if tool["function"]["name"] == choice:
                return cls("required", [tool])
        kind = choice.get("type") if isinstance(choice, Mapping) else None
        if kind == "function":
            return cls("required", [_named(choice, _some(tools), "tool_choice")])
        if kind == "allowed_tools":
            return _allowed(choice.get("allowed_tools"), _some(tools))
        raise RequestError(
            'tool_choice must be "none", "auto", "required", the name of one of the '
            'tools, {"type": "function", "function": {"name": ...}} or {"type": '
            '"allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}, not '
            f"{quoted(choice)}",
            "tool_choice",
        )


def _check_names(tools: Tools) -> None:
    names: set[str] = set()
    for number, tool in enumerate(tools):
        name = tool["function"]["name"]
        if name in names:
            path = f"tools[{number}].function.name"
            raise RequestError(f"{path} is that of another tool, {name}", path)
        names.add(name)


def _some(tools: Tools) -> Tools:
    if not tools:
        raise RequestError(
            "tool_choice asks for calls, but the request has no tools", "tool_choice"
        )
    return tools


def _named(choice: Any, tools: Tools, path: str) -> Mapping[str, Any]:
    """Returns the tool that ``{"type": "function", ...}`` names."""
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    path = f"{path}.function.name"
    raise RequestError(
        f"{path} must be the name of one of the request's tools, not {quoted(name)}",
        path,
    )


def _allowed(allowed: Any, tools: Tools) -> ToolChoice:
    """Returns the choice of some of the tools."""
    path = "tool_choice.allowed_tools"
    mode = allowed.get("mode") if isinstance(allowed, Mapping) else None
    if mode not in ("auto", "required"):
        raise RequestError(
            f'{path}.mode must be "auto" or "required", not {quoted(mode)}',
            f"{path}.mode",
        )
    chosen = allowed.get("tools")
    if not isinstance(chosen, Sequence) or isinstance(chosen, str) or not chosen:
        raise RequestError(
            f"{path}.tools must be a list of tools, not {quoted(chosen)}",
            f"{path}.tools",
        )
    named = [
        _named(each, tools, f"{path}.tools[{index}]")
        for index, each in enumerate(chosen)
    ]
    return ToolChoice(mode, [tool for tool in tools if tool in named])
