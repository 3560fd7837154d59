"""Tables of the API's fields, made from the models that read requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic.fields import FieldInfo

from mllama.server.bodies.schema import Body, Ignored, Refused
from mllama.server.dialects.anthropic import content as anthropic_content
from mllama.server.dialects.anthropic import message_body
from mllama.server.dialects.anthropic import tool_fields as anthropic_tools
from mllama.server.dialects.ollama import bodies as ollama_bodies
from mllama.server.dialects.ollama import messages as ollama_messages
from mllama.server.dialects.ollama import options as ollama_options
from mllama.server.dialects.openai import (
    attention_fields,
    content,
    format_fields,
    sampling_fields,
    tool_fields,
)
from mllama.server.dialects.openai.chat_body import ChatBody
from mllama.server.dialects.openai.completion_body import CompletionBody
from mllama.server.dialects.openai.moderations.body import ModerationBody
from mllama.server.dialects.openai.responses.body import (
    ResponseReasoning,
    ResponsesBody,
    ResponseStreamOptions,
)
from mllama.server.dialects.openai.responses.content import (
    InputImage,
    InputText,
    OutputTextPart,
)
from mllama.server.dialects.openai.responses.input_items import (
    InputAssistantMessage,
    InputFunctionCall,
    InputFunctionResult,
    InputReasoning,
    InputSystemMessage,
    InputUserMessage,
)
from mllama.server.dialects.openai.responses.text_fields import (
    ResponseSchemaFormat,
    ResponseTextConfig,
)
from mllama.server.dialects.openai.responses.tool_fields import ResponseTool
from mllama.server.dialects.openai.token_bodies import (
    DetokenizeBody,
    TokenizeChatBody,
    TokenizeTextBody,
)

BEGIN: Final = "<!-- The tables are made by `make reference`. -->"
END: Final = "<!-- The end of the tables. -->"

_SHARED: Final = sampling_fields.GenerationFields

Sections = Mapping[str, tuple[type[Body], type[Body] | None]]
"""The models of tables by title, and those whose fields a table leaves out."""

_OPENAI: Final[Sections] = {
    "Chats and completions": (_SHARED, None),
    "Chats": (ChatBody, _SHARED),
    "Completions": (CompletionBody, _SHARED),
    "`response_format.json_schema`": (format_fields.NamedSchema, None),
    "`structured_outputs`": (format_fields.StructuredOutputs, None),
    "`attention`": (attention_fields.AttentionFields, None),
    "`stream_options`": (sampling_fields.StreamOptions, None),
    "Messages: `system` and `developer`": (content.SystemMessage, None),
    "Messages: `user`": (content.UserMessage, None),
    "Messages: `assistant`": (content.AssistantMessage, None),
    "Messages: `tool`": (content.ToolMessage, None),
    "Parts: `text`": (content.TextPart, None),
    "Parts: `image_url`": (content.ImagePart, None),
    "`image_url`": (content.ImageUrl, None),
    "`tools[].function`": (tool_fields.FunctionDefinition, None),
    "`/tokenize` with a text": (TokenizeTextBody, None),
    "`/tokenize` with messages": (TokenizeChatBody, None),
    "`/detokenize`": (DetokenizeBody, None),
}

_RESPONSES: Final[Sections] = {
    "Responses": (ResponsesBody, sampling_fields.SamplingFields),
    "Sampling": (sampling_fields.SamplingFields, None),
    "Messages: `system` and `developer`": (InputSystemMessage, None),
    "Messages: `user`": (InputUserMessage, None),
    "Messages: `assistant`": (InputAssistantMessage, None),
    "`function_call`": (InputFunctionCall, None),
    "`function_call_output`": (InputFunctionResult, None),
    "`reasoning` items": (InputReasoning, None),
    "Parts: `input_text`": (InputText, None),
    "Parts: `input_image`": (InputImage, None),
    "Parts: `output_text`": (OutputTextPart, None),
    "`tools[]`": (ResponseTool, None),
    "`text`": (ResponseTextConfig, None),
    "`text.format` of the type `json_schema`": (
        ResponseSchemaFormat,
        None,
    ),
    "`reasoning`": (ResponseReasoning, None),
    "`stream_options`": (ResponseStreamOptions, None),
}

_ANTHROPIC: Final[Sections] = {
    "`/v1/messages` and `/v1/messages/count_tokens`": (message_body.PromptBody, None),
    "`/v1/messages`": (message_body.MessageBody, message_body.PromptBody),
    "`output_config`": (message_body.OutputConfig, None),
    "`output_config.format`": (message_body.JsonOutput, None),
    "`thinking`": (message_body.Thinking, None),
    "`context_management.edits`": (message_body.ContextEdit, None),
    "Blocks: `text`": (anthropic_content.TextBlock, None),
    "Blocks: `image`": (anthropic_content.ImageBlock, None),
    "`source` of the type `base64`": (anthropic_content.Base64Source, None),
    "`source` of the type `url`": (anthropic_content.UrlSource, None),
    "`transformations`": (anthropic_content.ImageTransformations, None),
    "Blocks: `tool_use`": (anthropic_content.ToolUseBlock, None),
    "Blocks: `tool_result`": (anthropic_content.ToolResultBlock, None),
    "Blocks: `thinking`": (anthropic_content.ThinkingBlock, None),
    "Blocks: `redacted_thinking`": (anthropic_content.RedactedThinkingBlock, None),
    "`tools`": (anthropic_tools.CustomTool, None),
    "`tool_choice` of the types `auto` and `any`": (
        anthropic_tools.SomeToolChoice,
        None,
    ),
    "`tool_choice` of the type `tool`": (anthropic_tools.OneToolChoice, None),
}

_OLLAMA: Final[Sections] = {
    "Chats and prompts": (ollama_bodies.OllamaFields, None),
    "`/api/chat`": (ollama_bodies.OllamaChatBody, ollama_bodies.OllamaFields),
    "`/api/generate`": (ollama_bodies.OllamaGenerateBody, ollama_bodies.OllamaFields),
    "`options`": (ollama_options.OllamaOptions, None),
    "`messages[]`": (ollama_messages.OllamaMessage, None),
    "`messages[].tool_calls[]`": (ollama_messages.OllamaToolCall, None),
    "`messages[].tool_calls[].function`": (ollama_messages.OllamaCalledFunction, None),
    "`tools[].function`": (ollama_messages.OllamaFunction, None),
    "`/api/show`": (ollama_bodies.OllamaShowBody, None),
}

_MODERATIONS: Final[Sections] = {
    "Moderations": (ModerationBody, None),
    "Parts: `text`": (content.PlainTextPart, None),
    "Parts: `image_url`": (content.ImagePart, None),
    "`image_url`": (content.ImageUrl, None),
}

PAGES: Final[Mapping[str, Sections]] = {
    "api.md": _OPENAI,
    "ollama.md": _OLLAMA,
    "responses.md": _RESPONSES,
    "anthropic.md": _ANTHROPIC,
    "moderations.md": _MODERATIONS,
}
"""The tables of each page of the documentation."""


def with_tables(page: str, sections: Sections) -> str:
    """Returns a page with current tables between the marks.

    Args:
        page: The page.
        sections: What the tables are of.
    """
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(sections)}\n{END}{after}"


def _named_fields(model: type[Body]) -> list[tuple[str, FieldInfo]]:
    """Returns the fields of a model by their names in bodies."""
    fields = model.model_fields.items()
    return [(field.alias or name, field) for name, field in fields]


def tables(sections: Sections) -> str:
    """Returns the tables of all fields of a page."""
    parts = []
    for title, (model, base) in sections.items():
        hidden = dict(_named_fields(base)) if base is not None else {}
        properties = model.model_json_schema()["properties"]
        rows = [
            f"| `{name}` | {_values(properties[name])} | {_effect(name, field)} |"
            for name, field in _named_fields(model)
            if name not in hidden
        ]
        parts.append(
            "\n".join(
                [f"### {title}", "", "| field | values | |", "|---|---|---|", *rows, ""]
            )
        )
    return "\n".join(parts)


def _effect(name: str, field: FieldInfo) -> str:
    """Returns what a field does: works, has no effect, or is refused."""
    for mark in field.metadata:
        if isinstance(mark, Refused):
            return _escaped(f'refused: "`{name}` {mark.text}."')
        if isinstance(mark, Ignored):
            return _escaped(f"accepted, no effect: {mark.reason}")
    text = f"works. {field.description}" if field.description else "works"
    return _escaped(text + ("; required" if field.is_required() else ""))


def _values(schema: dict[str, Any]) -> str:
    """Returns a field's type and limits in a few words."""
    options = [
        _type(each)
        for each in schema.get("anyOf", schema.get("oneOf", [schema]))
        if each.get("type") != "null"
    ]
    return " or ".join(dict.fromkeys(options)) or "any"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "oneOf" in schema or "anyOf" in schema:
        return _values(schema)
    kind = str(schema.get("type", "object" if "$ref" in schema else "any"))
    if kind == "array":
        items = schema.get("items", {})
        entry = "string" if "enum" in items else _type(items).partition(",")[0]
        return "list" if entry == "any" or " " in entry else f"list of {entry}s"
    kind = "true or false" if kind == "boolean" else kind
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum")
    word = "above" if "exclusiveMinimum" in schema else "at least"
    if least is not None and most not in (None, sampling_fields.MAX_INTEGER):
        return f"{kind}, {_number(least)} to {_number(most)}"
    if least is not None:
        return f"{kind}, {word} {_number(least)}"
    return kind


def _number(value: float) -> str:
    """Returns a number as people write it."""
    if abs(value) in (2**63, 2**63 - 1):
        return "-2^63" if value < 0 else "2^63 - 1"
    return f"{value:g}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
