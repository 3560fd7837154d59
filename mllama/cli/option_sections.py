"""Headings of the commands' help, beside those in ``mllama/launch/option.py``."""

from __future__ import annotations

from typing import Final

SERVER: Final = "Server"
ACCESS: Final = "Access"
OUTPUT: Final = "Output"
BATCHES: Final = "Batches"
CLUSTER: Final = "Cluster"
