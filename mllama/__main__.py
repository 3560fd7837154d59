"""Runs the command ``mllama`` as ``python -m mllama``."""

from __future__ import annotations

from mllama.cli.main import main

main()
