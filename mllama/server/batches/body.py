"""The body of ``POST /v1/batches``."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from mllama.server.batches.records import KEPT_SECONDS
from mllama.server.bodies.schema import Body

LEAST_KEPT_SECONDS: Final = 3600

_MOST_PAIRS: Final = 16
"""The limit of OpenAI's API."""


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > _MOST_PAIRS:
        raise PydanticCustomError("pairs", "must have at most 16 keys")
    return value


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(_few),
]


class OutputExpiry(Body):
    """When the files of answers are deleted."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=LEAST_KEPT_SECONDS, le=KEPT_SECONDS)


class BatchBody(Body):
    """A request to answer the lines of a file."""

    input_file_id: str = Field(description="A file of the purpose `batch`")
    endpoint: Literal[
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/moderations",
    ] = Field(description="The `url` of all lines")
    completion_window: Literal["24h"] = Field(
        description="When lines without an answer expire"
    )
    metadata: Metadata | None = Field(None, description="Up to 16 texts by keys")
    output_expires_after: OutputExpiry | None = Field(
        None, description="When the files of answers are deleted; 30 days by default"
    )
