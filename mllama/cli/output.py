"""Stdout is for answers alone.

MAX and the libraries under it print where they like, C++ code included, so the file
descriptor itself is moved: what anyone else writes to stdout lands on stderr.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO


def reserve_stdout() -> TextIO:
    """Takes stdout for the caller; everyone else's goes to stderr from now on.

    Returns:
        The stream to write answers to.
    """
    try:
        shared = sys.stdout.fileno()
    except (OSError, ValueError):
        # Captured, as in a test: there is no descriptor to guard.
        return sys.stdout
    sys.stdout.flush()
    answers = os.fdopen(
        os.dup(shared), "w", encoding="utf-8", errors="replace", buffering=1
    )
    os.dup2(sys.stderr.fileno(), shared)
    return answers
