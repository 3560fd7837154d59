"""The format that an answer must have: JSON, a regular expression, a choice, a grammar.

This module checks what can be checked at once: types and sizes.  Whether a schema can
be honored shows when a request is prepared.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from mllama.errors import RequestError, quoted

MAX_FORMAT_BYTES: Final = 1 << 16
"""The largest schema, expression or grammar, in bytes of UTF-8."""

MAX_CHOICE_TEXTS: Final = 1000
"""The most texts to choose from."""

MAX_TOOLS_CHARACTERS: Final = 1 << 18
"""The largest tools of a format, as JSON."""

OutputKind = Literal[
    "json_object", "json_schema", "regex", "choice", "grammar", "tool_calls"
]


@dataclass(frozen=True)
class CallableTool:
    """A tool that an answer may call.

    Attributes:
        name: Its name.
        parameters: The JSON schema of its arguments; None is that of no arguments.
        is_strict: Whether a schema that can't be honored is an error.  Otherwise the
            arguments are any object then.
        path: The field of the request that has the schema.
    """

    name: str
    parameters: Any
    is_strict: bool
    path: str


@dataclass(frozen=True)
class OutputFormat:
    """What an answer must look like.  Made by the class methods.

    Attributes:
        kind: The kind of format.
        source: The schema as JSON, the regular expression, the list of texts as JSON,
            the grammar, or tools and what may stand for their calls as JSON; empty for
            any JSON object.
        is_strict: Whether an object of a schema has only the properties that the schema
            names, unless the schema itself says which others it may have.
        path: The field of the request that asks for the format, for messages.
    """

    kind: OutputKind
    source: str
    is_strict: bool
    path: str

    @classmethod
    def json_object(
        cls, *, not_first: Collection[str] = (), path: str = "output_format"
    ) -> OutputFormat:
        """Returns the format of any JSON object.

        Args:
            not_first: Names that its first property doesn't have.
            path: The field of the request that asks for the format.
        """
        source = json.dumps(sorted(not_first)) if not_first else ""
        return cls("json_object", source, False, path)

    @classmethod
    def json_schema(
        cls,
        schema: Mapping[str, Any] | bool,
        *,
        strict: bool = False,
        path: str = "output_format",
    ) -> OutputFormat:
        """Returns the format of JSON that fits a schema.

        Args:
            schema: The schema, as plain data.
            strict: Whether objects have no properties beside those of the schema,
                unless it has ``additionalProperties``.
            path: The field of the request that has the schema.

        Raises:
            RequestError: If it is no schema, or too large.
        """
        if not isinstance(schema, (Mapping, bool)):
            raise RequestError(
                f"{path} must be a JSON schema, an object, not {quoted(schema)}", path
            )
        if not isinstance(strict, bool):
            raise RequestError(f"strict must be true or false, not {quoted(strict)}")
        try:
            source = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"{path} is no JSON: {error}", path) from error
        return cls("json_schema", _limited(source, path), strict, path)

    @classmethod
    def regex(cls, pattern: str, *, path: str = "output_format") -> OutputFormat:
        """Returns the format of a text that a regular expression matches as a whole.

        Raises:
            RequestError: If it is no text, empty or too large.
        """
        return cls("regex", _text(pattern, path), False, path)

    @classmethod
    def choice(
        cls, texts: Sequence[str], *, path: str = "output_format"
    ) -> OutputFormat:
        """Returns the format of one of several texts.

        Raises:
            RequestError: If there is none, one is empty or no text, or they are too
                many or too large.
        """
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
            raise RequestError(
                f"{path} must be a list of texts, not {quoted(texts)}", path
            )
        if not 1 <= len(texts) <= MAX_CHOICE_TEXTS:
            raise RequestError(
                f"{path} must have from 1 to {MAX_CHOICE_TEXTS} texts, not "
                f"{len(texts)}",
                path,
            )
        for index, text in enumerate(texts):
            _text(text, f"{path}[{index}]")
        unique = list(dict.fromkeys(texts))
        source = json.dumps(unique, ensure_ascii=False)
        return cls("choice", _limited(source, path), False, path)

    @classmethod
    def grammar(cls, text: str, *, path: str = "output_format") -> OutputFormat:
        """Returns the format of a text that a grammar derives.

        Args:
            text: The grammar, in Lark as llguidance reads it, or in llama.cpp's GBNF.
            path: The field of the request that has the grammar.

        Raises:
            RequestError: If it is no text, empty or too large.
        """
        return cls("grammar", _text(text, path), False, path)

    @classmethod
    def tool_calls(
        cls,
        tools: Sequence[CallableTool],
        *,
        parallel: bool,
        text: OutputFormat | Literal["any"] | None,
        path: str,
    ) -> OutputFormat:
        """Returns the format of calls of tools, in Llama's JSON form.

        Args:
            tools: The tools that may be called.
            parallel: Whether there may be several calls.
            text: What may stand for calls: text of a format, any text that isn't read
                as calls, or nothing.
            path: The field of the request that asks for the format.

        Raises:
            RequestError: If the tools are too large, or the format of the text has a
                grammar of its own.
        """
        if isinstance(text, OutputFormat) and text.kind == "grammar":
            raise RequestError(
                f"{text.path} can't be combined with tools: set tool_choice to none",
                text.path,
            )
        plain = {
            "tools": [asdict(tool) for tool in tools],
            "parallel": parallel,
            "text": asdict(text) if isinstance(text, OutputFormat) else text,
        }
        try:
            source = json.dumps(plain, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"tools must be JSON: {error}", "tools") from error
        if len(source) > MAX_TOOLS_CHARACTERS:
            raise RequestError(
                f"tools must have at most {MAX_TOOLS_CHARACTERS} characters where they "
                f"are forced or strict, not {len(source)}",
                "tools",
            )
        return cls("tool_calls", source, False, path)


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise RequestError(
            f"{path} must be a text that isn't empty, not {quoted(value)}", path
        )
    return _limited(value, path)


def _limited(text: str, path: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise RequestError(f"{path} has half of a surrogate pair", path) from error
    if size > MAX_FORMAT_BYTES:
        raise RequestError(
            f"{path} must have at most {MAX_FORMAT_BYTES} bytes, not {size}", path
        )
    return text
