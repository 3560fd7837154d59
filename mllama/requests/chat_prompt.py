"""Messages that a chat template turns into a prompt, and what shapes that prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from mllama.errors import RequestError, quoted
from mllama.requests.tool_calls.tool_choice import ToolChoice
from mllama.requests.tool_messages import check_tool_messages
from mllama.requests.value_checks import is_list


class ChatPromptFields(TypedDict, total=False):
    """The parameters of :class:`ChatPromptOptions`, for functions that pass them on."""

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    chat_template_kwargs: Mapping[str, Any] | None
    add_generation_prompt: bool | None
    continue_final_message: bool


@dataclass(frozen=True, kw_only=True)
class ChatPromptOptions:
    """What shapes a prompt beside its messages.

    Attributes:
        tools: Tools that the template describes to the model, in OpenAI's form.
        tool_choice: Which of them the answer may or must call, in OpenAI's form; only
            these are described.  None is any.
        parallel_tool_calls: Whether the answer may have several calls; None is yes.
        chat_template_kwargs: Variables of the template by name, as plain data.
        add_generation_prompt: Whether the prompt ends in the header of the answer's
            turn; None is yes, unless the answer goes on with the last message.
        continue_final_message: Whether the answer goes on with the last message,
            instead of a new turn; the prompt has no header of a turn then.

    Raises:
        RequestError: If a value is of another type, or two contradict each other.
    """

    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        _check_tools(self.tools)
        ToolChoice.of(self.tool_choice, self.tools)
        variables = self.chat_template_kwargs
        if variables is not None and not isinstance(variables, Mapping):
            raise RequestError(
                "chat_template_kwargs must be an object of values by the names of "
                f"variables, not {quoted(variables)}",
                "chat_template_kwargs",
            )
        for name in (
            "parallel_tool_calls",
            "add_generation_prompt",
            "continue_final_message",
        ):
            value = getattr(self, name)
            if not isinstance(value, bool) and value is not None:
                raise RequestError(
                    f"{name} must be true or false, not {quoted(value)}", name
                )
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError(
                "add_generation_prompt begins a new turn, which continue_final_message "
                "excludes",
                "add_generation_prompt",
            )

    @property
    def callable_tools(self) -> ToolChoice:
        """Returns the tools that the answer may or must call."""
        return ToolChoice.of(self.tool_choice, self.tools)

    @property
    def begins_turn(self) -> bool:
        """Returns True if the prompt ends in the header of the answer's turn."""
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt


@dataclass(frozen=True, kw_only=True)
class ChatPrompt(ChatPromptOptions):
    """Messages that the checkpoint's chat template turns into a prompt.

    Attributes:
        messages: Messages with ``role``, and ``content`` as a string or a list of
            parts: ``{"type": "text", "text": ...}``, or ``{"type": "image"}`` where an
            image stands; ``tool_calls``, ``tool_call_id`` and ``name`` as in OpenAI's
            API.

    Raises:
        RequestError: If an option is wrong, or calls of tools and their results don't
            match.
    """

    messages: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.messages:
            raise RequestError("there must be at least one message", "messages")
        if self.continue_final_message and not self._ends_in_answer():
            raise RequestError(
                "continue_final_message needs a last message of the role assistant",
                "continue_final_message",
            )
        check_tool_messages(self.messages)

    def check_turn(self, continues_messages: bool) -> None:
        """Checks that it is clear where the answer begins.

        Args:
            continues_messages: Whether the chat template lets an answer go on with the
                last message.  That of a model that judges messages doesn't.

        Raises:
            RequestError: If it isn't.
        """
        is_open = self.add_generation_prompt is None and not self.continue_final_message
        if is_open and continues_messages and self._ends_in_answer():
            raise RequestError(
                "the last message is the assistant's: set continue_final_message to go "
                "on with it, or add_generation_prompt to begin another turn",
                f"messages[{len(self.messages) - 1}]",
            )

    def _ends_in_answer(self) -> bool:
        return self.messages[-1].get("role") == "assistant"


def _check_tools(tools: Any) -> None:
    """Checks the form of tools, as far as the prompt depends on it."""
    if tools is None:
        return
    if not is_list(tools):
        raise RequestError(
            f"tools must be a list of tools, not {quoted(tools)}", "tools"
        )
    for number, tool in enumerate(tools):
        path = f"tools[{number}]"
        if not isinstance(tool, Mapping) or tool.get("type") != "function":
            raise RequestError(
                f'{path} must be {{"type": "function", "function": {{...}}}}, not '
                f"{quoted(tool)}",
                path,
            )
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(
            function.get("name"), str
        ):
            raise RequestError(
                f'{path}.function must be an object with a "name", not '
                f"{quoted(function)}",
                f"{path}.function",
            )
