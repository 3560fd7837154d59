"""The names by which clients may ask for the served model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mllama.demo_model import MODEL_NAME, MODEL_PATH
from mllama.server.bodies.rejection import RequestRejected

PUBLISHED_NAMES: Final = tuple(
    f"meta-llama/Llama-3.2-{size}-Vision{tuning}"
    for size in ("11B", "90B")
    for tuning in ("", "-Instruct")
)
"""The published models' names, which the server accepts for any checkpoint, because
clients and examples use them."""

_OLLAMA_NAME: Final = re.compile(r"(ollama:)?llama3\.2-vision(:[A-Za-z0-9._-]+)?")
"""Ollama's name of the same models, for the same reason."""


MODERATION_NAMES: Final = re.compile(
    r"(omni|text)-moderation-[a-z0-9-]+|(meta-llama/)?Llama-Guard-[\w.-]+"
)
"""Names by which clients ask for a model that judges content, for the same reason."""


def default_name(model: str) -> str:
    """Returns the name of a model that is given none.

    Where it lies on this machine isn't the clients' business.

    Args:
        model: A folder, a file, or a repository's id.
    """
    path = Path(model)
    return path.resolve().name or model if path.exists() else model


def served_name(name: str | None, model: str) -> str:
    """Returns the name of the served model.

    Args:
        name: What the user calls it, or None.
        model: A folder, a file, or a repository's id.
    """
    if name:
        return name
    return MODEL_NAME if model == str(MODEL_PATH) else default_name(model)


def is_name_of(name: str, served: str) -> bool:
    """Returns True if a request may ask for the served model by a name.

    Args:
        name: The name in the request; an empty one is the served model's.
        served: The served model's name.
    """
    if name in ("", served, *PUBLISHED_NAMES) or _OLLAMA_NAME.fullmatch(name):
        return True
    # A model of Ollama's store has a name with or without a tag.
    bare = served.removeprefix("ollama:")
    return bare != served and name.removeprefix("ollama:") in (
        bare,
        bare.removesuffix(":latest"),
        f"{bare}:latest",
    )


def check_model(name: str | None, served: str) -> None:
    """Checks that a request asks for the served model.

    Args:
        name: The name in the request; None is the served model's.
        served: The served model's name.

    Raises:
        RequestRejected: If the server has no model of this name.
    """
    if name is not None and not is_name_of(name, served):
        raise RequestRejected(
            f"The model {name[:200]!r} does not exist; this server serves {served!r}.",
            "model",
            code="model_not_found",
            status=404,
        )
