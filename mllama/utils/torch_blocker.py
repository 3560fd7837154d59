"""What the commands leave unimported."""

from __future__ import annotations

import os
import sys
from typing import Any


def block_torch() -> None:
    """Hides torch from this process, unless it is imported already.

    transformers imports torch wherever it is installed, which takes seconds; nothing
    here computes with it.  For the commands only: a program that uses :class:`LLM` may
    want torch for itself.
    """
    # It would advise to install torch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    modules: dict[str, Any] = sys.modules
    modules.setdefault("torch", None)
