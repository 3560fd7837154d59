"""Options for the hub and the result of a download; this module imports no client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class HubOptions:
    """Options for downloads from the hub.

    Attributes:
        revision: Branch, tag or commit of the model's repository; None is ``main``.
        weight_revision: Revision of the weights, if it is another one.
        force_download: Whether to download files that are in the cache already.
        trust_remote_code: Whether to download the model's custom code, which may then
            run.
    """

    revision: str | None = None
    weight_revision: str | None = None
    force_download: bool = False
    trust_remote_code: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class DownloadedModel:
    """A model whose files are on this machine.

    Attributes:
        model: A directory in Hugging Face layout, or a GGUF file.
        weight_path: The weight files; empty if the model's own are used.
        notes: Lines about files of the repository that are left out.
    """

    model: str
    weight_path: tuple[Any, ...]
    notes: tuple[str, ...] = ()
