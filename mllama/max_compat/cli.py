"""The door to MAX's command line, apart so that help comes at once."""

from __future__ import annotations

# A click command that gets an option for every field of MAX's configuration, built
# when they are needed.
from max._entrypoints.pipelines import WithLazyPipelineOptions

__all__ = ["WithLazyPipelineOptions"]
