"""MAX's undocumented names that the command line needs.

They are in a separate module so that ``--help`` loads nothing else.
"""

from __future__ import annotations

# A click command with an option for each field of MAX's configuration, built when they
# are needed.
from max._entrypoints.pipelines import WithLazyPipelineOptions

__all__ = ["WithLazyPipelineOptions"]
