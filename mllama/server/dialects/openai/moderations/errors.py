"""Errors of the moderation API, by the names that its bodies have."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mllama.server.dialects.openai.errors import OpenAIErrors


class ModerationErrors(OpenAIErrors):
    """The form of errors of the moderation API, which is that of the others.

    Attributes:
        field_names: Names in bodies of values that have another name in this package.
    """

    field_names: Mapping[str, str] = MappingProxyType({"messages": "input"})


MODERATION_ERRORS: Final = ModerationErrors()
"""The form of errors of ``/v1/moderations``."""
