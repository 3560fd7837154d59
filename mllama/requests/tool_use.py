"""How calls are told from the text of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.tool_calls.parser import ToolCallParser, ToolForm


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
            calls are JSON.
    """
    if not isinstance(prompt, ChatPrompt):
        return None
    choice = prompt.callable_tools
    if choice.mode == "none":
        return None
    return ToolUse(
        names=choice.names,
        parallel=prompt.parallel_tool_calls is not False,
        form="llama3_json" if choice.mode == "required" else form,
    )
