"""Defaults of limits, in a module that imports nothing."""

from __future__ import annotations

from typing import Final

DEFAULT_BATCH_SIZE: Final = {"cpu": 4, "gpu": 16}
"""Requests processed concurrently, by device type.

Each concurrent request reserves KV-cache memory; a CPU gains little beyond eight.
"""

DEFAULT_CE_BATCH_SIZE: Final = 32
"""Requests whose prompts are prefilled in one step."""

SPECULATE_CHOICES: Final = ("off", "lookup", "draft")
"""Values of ``--speculate``: what proposes tokens for speculative decoding."""

DEFAULT_SPECULATE: Final = {"cpu": "off", "gpu": "off"}
"""The default of ``--speculate``, by device type."""

DEFAULT_QUEUE_SIZE: Final = 512
"""Requests that may wait in a server: as many as Ollama lets wait."""

DEFAULT_SHUTDOWN_TIMEOUT: Final = 25
"""Seconds for requests in progress as a server ends, after which the rest gets an error
before Kubernetes, which waits for 30 seconds, kills the server."""
