"""``python -m mllama`` is the command ``mllama``."""

from __future__ import annotations

from mllama.cli.main import main

main()
