"""A body to a request of this package."""

from __future__ import annotations

from typing import Any

from mllama.errors import quoted
from mllama.images.load import url_scheme
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.output_format import OutputFormat
from mllama.requests.sampling_params import Sampling
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.anthropic.content import Base64Source, UrlSource
from mllama.server.dialects.anthropic.conversation import Conversation, placed_images
from mllama.server.dialects.anthropic.message_body import MessageBody, PromptBody
from mllama.server.dialects.anthropic.tool_fields import (
    CustomTool,
    NoToolChoice,
    OneToolChoice,
)
from mllama.server.model_names import check_model
from mllama.server.request_images import ImageReference, check_image_count


def image_references(body: PromptBody) -> list[ImageReference]:
    """Returns the images of a body, in the order of the prompt."""
    return [
        ImageReference(
            place,
            block.source.data
            if isinstance(block.source, Base64Source)
            else block.source.url,
        )
        for place, block in placed_images(body.messages)
    ]


def check_body(body: PromptBody, capabilities: ServerCapabilities) -> None:
    """Checks what the model of a body alone can't know.

    Raises:
        RequestRejected: If fields contradict each other, or exceed the server's limits.
    """
    check_model(body.model, capabilities.model_name)
    images = list(placed_images(body.messages))
    check_image_count(len(images), capabilities.max_images)
    for place, block in images:
        source = block.source
        if isinstance(source, Base64Source) and (
            url_scheme(source.data) not in (None, "data")
        ):
            raise _wrong_source(
                f"{place}.source.data",
                "must be base64; a URL needs a source of the type url",
            )
        if isinstance(source, UrlSource) and (
            url_scheme(source.url) not in ("data", "http", "https")
        ):
            raise _wrong_source(
                f"{place}.source.url",
                "must be a data:, http: or https: URL; base64 needs a source of the "
                "type base64",
            )
    for number, tool in enumerate(body.tools or ()):
        if isinstance(tool, CustomTool) and tool.input_examples:
            _check_examples(tool.input_schema, f"tools[{number}].input_schema")
    config = body.output_config
    if body.output_format is not None and config is not None and config.format:
        raise RequestRejected(
            "`output_format` and `output_config.format` are the same, and can't be "
            "combined.",
            "output_format",
            code="invalid_value",
        )


def _wrong_source(path: str, requirement: str) -> RequestRejected:
    return RequestRejected(f"`{path}` {requirement}.", path, code="invalid_value")


def _check_examples(schema: dict[str, Any], path: str) -> None:
    """Refuses examples of a schema that others can't be added to."""
    if not isinstance(schema.get("examples", []), list):
        raise RequestRejected(
            f"`{path}.examples` must be a list, not {quoted(schema['examples'])}.",
            f"{path}.examples",
            code="invalid_type",
        )


def prompt_of(
    body: PromptBody, conversation: Conversation, capabilities: ServerCapabilities
) -> ChatPrompt:
    """Returns the prompt of a valid body.

    Args:
        body: The body.
        conversation: Its messages.
        capabilities: Features of the server.

    Raises:
        RequestError: If a chosen tool is none of the request's, or tools have the same
            name.
    """
    choice = body.tool_choice
    is_single = choice is not None and getattr(
        choice, "disable_parallel_tool_use", None
    )
    return ChatPrompt(
        messages=conversation.messages,
        tools=[
            _plain_tool(tool)
            for tool in body.tools or ()
            if isinstance(tool, CustomTool)
        ],
        tool_choice=_plain_choice(body),
        parallel_tool_calls=False if is_single else None,
        continue_final_message=(
            capabilities.continues_messages and conversation.ends_in_answer
        ),
    )


def _plain_tool(tool: CustomTool) -> dict[str, Any]:
    """Returns a tool in OpenAI's form, which ``ChatPrompt`` has."""
    parameters = tool.input_schema
    if tool.input_examples:
        # What JSON schemas call them.
        examples = [*parameters.get("examples", ()), *tool.input_examples]
        parameters = {**parameters, "examples": examples}
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": parameters,
        "strict": tool.strict,
    }
    given = {name: value for name, value in function.items() if value is not None}
    return {"type": "function", "function": given}


def _plain_choice(body: PromptBody) -> Any:
    """Returns the choice of tools in OpenAI's form."""
    choice = body.tool_choice
    if choice is None:
        return None
    if isinstance(choice, NoToolChoice):
        return "none"
    if isinstance(choice, OneToolChoice):
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.type == "any" else "auto"


def sampling_of(body: MessageBody) -> Sampling:
    """Returns how the answer's tokens are chosen.

    Raises:
        RequestError: If values are wrong together.
    """
    return Sampling(
        max_new_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=-1 if body.top_k == 0 else body.top_k,
        stop=body.stop_sequences,
    )


def anthropic_output_format(body: PromptBody) -> OutputFormat | None:
    """Returns the format that a body asks for; None if it asks for none.

    Raises:
        RequestError: If the schema is too large.
    """
    asked, path = body.output_format, "output_format.schema"
    if asked is None and body.output_config is not None:
        asked, path = body.output_config.format, "output_config.format.schema"
    if asked is None:
        return None
    # Anthropic's schemas have to say so themselves, by additionalProperties.
    return OutputFormat.json_schema(asked.schema_, strict=True, path=path)
