"""Runs Python programs in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any


def run(program: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=240,
        **options,
    )
