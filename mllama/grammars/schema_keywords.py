"""The keywords of JSON schemas that grammars honor, and those that only annotate."""

from __future__ import annotations

from typing import Any, Final

from mllama.errors import RequestError, shortened

SUPPORTED: Final = {
    "type": "all types, one or a list",
    "enum": "any values",
    "const": "any value",
    "properties": "in the order of the schema",
    "required": "",
    "additionalProperties": "true, false or a schema",
    "propertyNames": "where `properties` isn't",
    "minProperties": "0 or 1, or no more than are required",
    "maxProperties": "where `properties` isn't, or where it changes nothing",
    "items": "a schema",
    "prefixItems": "",
    "minItems": "",
    "maxItems": "",
    "uniqueItems": "false, or arrays of at most one item",
    "minLength": "beside `pattern` and `format` where it changes nothing",
    "maxLength": "beside `pattern` and `format` where it changes nothing",
    "pattern": "regular expressions without look-arounds and back references",
    "format": "",
    "minimum": "",
    "maximum": "",
    "exclusiveMinimum": "",
    "exclusiveMaximum": "",
    "multipleOf": "1, for integers",
    "anyOf": "",
    "oneOf": "where types, enumerated values or a property tell the options apart",
    "allOf": "where one schema can say the same",
    "$ref": "to the same schema; recursive too",
}
"""What is honored, by keyword, with its limits; empty if there are none."""

COMBINATORS: Final = frozenset({"$ref", "allOf", "anyOf", "oneOf"})

ANNOTATIONS: Final = frozenset(
    {
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "definitions",
        "deprecated",
        "description",
        "discriminator",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
"""Keywords that don't restrict a value.  Those that begin with ``x-`` don't either."""


def is_annotation(keyword: str) -> bool:
    """Returns True if a keyword doesn't restrict a value."""
    return keyword in ANNOTATIONS or keyword.startswith("x-")


def check_keywords(schema: dict[str, Any], path: str) -> None:
    """Checks that a schema, without those within it, has known keywords only.

    Raises:
        RequestError: If it has another one.
    """
    for keyword in schema:
        if keyword not in SUPPORTED and not is_annotation(keyword):
            raise unsupported(f"{path}.{keyword}", "is not supported")


def unsupported(path: str, reason: str) -> RequestError:
    """Returns the error of a keyword that can't be honored.

    Args:
        path: The keyword's path.
        reason: What the message says after it.
    """
    path = shortened(path, 200)
    return RequestError(f"{path} {reason}", path)
