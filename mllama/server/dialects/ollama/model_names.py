"""The served model's name as Ollama's clients know it, and the check of names."""

from __future__ import annotations

from mllama.server.bodies.rejection import RequestRejected
from mllama.server.model_names import is_name_of
from mllama.weights.ollama.store import PREFIX


def shown_name(served: str) -> str:
    """Returns the served model's name with a tag, without which clients add one."""
    name = served.removeprefix(PREFIX)
    has_tag = name.rfind(":") > name.rfind("/")
    return name if has_tag else f"{name}:latest"


def check_ollama_model(name: str | None, served: str) -> None:
    """Checks that a request asks for the served model.

    Args:
        name: The name in the request.
        served: The served model's name.

    Raises:
        RequestRejected: If there is none, or the server has no such model.
    """
    if not name:
        raise RequestRejected("model is required", "model")
    if not is_name_of(name, served) and name != shown_name(served):
        raise RequestRejected(f"model '{name[:200]}' not found", "model", status=404)
