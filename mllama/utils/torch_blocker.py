"""A block on importing torch, for fast commands."""

from __future__ import annotations

import os
import sys
from typing import Any


def block_torch() -> None:
    """Hides torch from this process, unless it is imported already.

    transformers imports torch wherever it is installed.  That takes seconds, and this
    package doesn't use torch.  Only the commands call this function: a program that
    uses :class:`LLM` may need torch itself.
    """
    # transformers would advise installing torch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    modules: dict[str, Any] = sys.modules
    modules.setdefault("torch", None)
