"""Finds the files of a draft model of the demo model in a process of its own.

The hub's client reads the environment when it is imported.
"""

from __future__ import annotations

import json
import sys

from mllama.demo_model import MODEL_PATH
from mllama.errors import MllamaError
from mllama.launch.draft_files import resolve_draft_files
from mllama.launch.resolve import resolve_model_files
from mllama.utils.telemetry import disable_telemetry

if __name__ == "__main__":
    disable_telemetry()
    target = resolve_model_files(str(MODEL_PATH), device_type="cpu")
    try:
        files = resolve_draft_files(sys.argv[1], target, device_type="cpu")
    except MllamaError as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps({"weights": [path.name for path in files.weight_path]}))
