"""Finds the files of a draft model of the demo model in a process of its own.

Its arguments are the draft model and, if one is asked for, its revision.

The hub's client reads the environment when it is imported.
"""

from __future__ import annotations

import json
import sys

from mllama.errors import MllamaError
from mllama.launch.options import EngineOptions
from mllama.utils.telemetry import disable_telemetry

if __name__ == "__main__":
    disable_telemetry()
    draft, revision = (*sys.argv[1:], None)[:2]
    options = EngineOptions(
        devices="cpu",
        speculate="draft",
        draft_model_path=draft,
        draft_model_revision=revision,
    )
    try:
        files = options.resolve().draft
    except MllamaError as error:
        print(json.dumps({"error": str(error)}))
    else:
        assert files is not None
        print(json.dumps({"weights": [path.name for path in files.weight_path]}))
