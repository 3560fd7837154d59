"""A chat's body to a request of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.sampling_params import Sampling
from mllama.requests.tool_messages import read_arguments
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.log_probability_budget import LogProbabilityBudget
from mllama.server.dialects.openai.chat_body import ChatBody, PromptFields
from mllama.server.dialects.openai.content import (
    AssistantMessage,
    ImagePart,
    ImageUrl,
    Message,
    RefusalPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from mllama.server.dialects.openai.sampling_translation import (
    check_shared,
    sampling_of,
)
from mllama.server.request_images import ImageReference, check_image_count

_TEMPLATE_FIELDS: Final = (
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
)
"""Variables of templates that are fields of the body."""

_TEMPLATE_CODE: Final = ("chat_template", "tokenize", "tokenizer_kwargs")
"""Names that would change how a template is rendered."""


def image_references(messages: Sequence[Message]) -> list[ImageReference]:
    """Returns the images of a conversation, in the order of the prompt."""
    found = []
    for number, message in enumerate(messages):
        if not isinstance(message, UserMessage):
            continue
        place = f"messages[{number}]"
        found += [
            ImageReference(f"{place}.images[{index}]", source)
            for index, source in enumerate(message.images or ())
        ]
        if isinstance(message.content, str):
            continue
        for index, part in enumerate(message.content):
            if part.image_url is not None:
                source = part.image_url
                url = source.url if isinstance(source, ImageUrl) else source
                path = f"{place}.content[{index}].image_url"
                found.append(ImageReference(path, url))
    return found


def check_chat(body: ChatBody, capabilities: ServerCapabilities) -> None:
    """Checks what the model of a body alone can't know.

    Raises:
        RequestRejected: If fields contradict each other, or exceed the server's limits.
    """
    check_shared(body, capabilities)
    check_prompt(body, capabilities)
    if body.top_logprobs and not body.logprobs:
        raise RequestRejected(
            "`top_logprobs` needs `logprobs` to be true.",
            "top_logprobs",
            code="invalid_value",
        )
    if body.echo and not isinstance(body.messages[-1], AssistantMessage):
        raise RequestRejected(
            "`echo` repeats the message that an answer goes on with, but the last "
            "message is not the assistant's.",
            "echo",
            code="invalid_value",
        )
    limits = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise RequestRejected(
            "`max_tokens` and `max_completion_tokens` are the same, and can't have two "
            "values.",
            "max_tokens",
            code="invalid_value",
        )
    if limits and body.logprobs and not body.stream:
        known = (*limits, capabilities.max_length)
        longest = min(each for each in known if each is not None)
        tokens = (body.n or 1) * longest
        LogProbabilityBudget().foresee(tokens, body.top_logprobs or 0)


def check_prompt(body: PromptFields, capabilities: ServerCapabilities) -> None:
    """Checks the fields that make a prompt.

    Raises:
        RequestRejected: If they contradict each other, or exceed the server's limits.
    """
    for name in body.chat_template_kwargs or ():
        if name in _TEMPLATE_CODE or name in _TEMPLATE_FIELDS:
            way = (
                f"`{name}` is a field of the request"
                if name in _TEMPLATE_FIELDS
                else "values must be plain data, not a template or its settings"
            )
            path = f"chat_template_kwargs.{name}"
            raise RequestRejected(
                f"`{path}` is not supported: {way}.", path, code="unsupported_parameter"
            )
    check_image_count(len(image_references(body.messages)), capabilities.max_images)


def chat_prompt(body: PromptFields, capabilities: ServerCapabilities) -> ChatPrompt:
    """Returns the prompt of a valid body.

    Args:
        body: The body.
        capabilities: Features of the server.

    Raises:
        RequestError: If fields contradict each other, it isn't clear where the answer
            begins, calls of tools and their results don't match, or a chosen tool is
            none of the request's.
    """
    prompt = ChatPrompt(
        messages=[
            _plain_message(message, f"messages[{number}]")
            for number, message in enumerate(body.messages)
        ],
        tools=[tool.model_dump(exclude_unset=True) for tool in body.tools or ()],
        tool_choice=_plain_choice(body),
        parallel_tool_calls=body.parallel_tool_calls
        if isinstance(body, ChatBody)
        else None,
        chat_template_kwargs=body.chat_template_kwargs,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
    )
    prompt.check_turn(capabilities.continues_messages)
    return prompt


def _plain_choice(body: PromptFields) -> Any:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice
    return choice.model_dump(exclude_unset=True)


def chat_sampling(body: ChatBody, capabilities: ServerCapabilities) -> Sampling:
    """Returns how the tokens of a chat's answers are chosen.

    Raises:
        RequestError: If values are wrong together.
    """
    longest = (
        body.max_tokens
        if body.max_completion_tokens is None
        else body.max_completion_tokens
    )
    return sampling_of(
        body,
        capabilities,
        max_new_tokens=capabilities.max_new_tokens if longest is None else longest,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )


def echoed_text(body: ChatBody) -> str:
    """Returns the text that answers repeat, of the message that they go on with."""
    last = body.messages[-1]
    if not (body.echo and isinstance(last, AssistantMessage)):
        return ""
    return _text_of(last)


def _plain_message(message: Message, path: str) -> dict[str, Any]:
    """Returns a message in the form of ``ChatPrompt``."""
    plain: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role
    }
    if isinstance(message, UserMessage):
        plain["content"] = _user_content(message)
    elif isinstance(message, AssistantMessage):
        plain["content"] = _text_of(message)
        if message.tool_calls:
            plain["tool_calls"] = [
                _plain_call(call, f"{path}.tool_calls[{index}]")
                for index, call in enumerate(message.tool_calls)
            ]
    else:
        plain["content"] = _joined(message.content)
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        plain["name"] = message.name
    return plain


def _user_content(message: UserMessage) -> str | list[dict[str, Any]]:
    images: list[dict[str, Any]] = [{"type": "image"} for _ in message.images or ()]
    if isinstance(message.content, str):
        if not images:
            return message.content
        return [*images, {"type": "text", "text": message.content}]
    parts = images
    for part in message.content:
        if part.image_url is not None:
            parts.append({"type": "image"})
        if not isinstance(part, ImagePart):
            parts.append({"type": "text", "text": part.text})
    return parts


def _text_of(message: AssistantMessage) -> str:
    return (
        message.refusal or "" if message.content is None else _joined(message.content)
    )


def _joined(content: Any) -> str:
    """Returns the text of a content without images."""
    if isinstance(content, str):
        return content
    return "".join(
        part.refusal if isinstance(part, RefusalPart) else part.text for part in content
    )


def _plain_call(call: ToolCall, path: str) -> dict[str, Any]:
    """Returns a call with its arguments as an object, which templates expect."""
    arguments = read_arguments(call.function.arguments, f"{path}.function.arguments")
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
