"""How the hub is asked, and what comes of it; apart so that options load nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class HubOptions:
    """How to ask the hub.

    Attributes:
        revision: Branch, tag or commit of the model's repository; None is ``main``.
        weight_revision: That of weights, if it is another one.
        force_download: Whether to download what is in the cache already.
        trust_remote_code: Whether a model's own code is fetched, too, and may run.
    """

    revision: str | None = None
    weight_revision: str | None = None
    force_download: bool = False
    trust_remote_code: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class DownloadedModel:
    """Files on this machine.

    Attributes:
        model: A directory in Hugging Face layout, or a GGUF file.
        weight_path: The weights' files; none are the model's own.
    """

    model: str
    weight_path: tuple[Any, ...]
