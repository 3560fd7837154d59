"""Downloads a model in a process of its own.

The hub's client reads the environment when it is imported.  The argument is a JSON
object with the arguments of ``download_model``.
"""

from __future__ import annotations

import json
import sys

from mllama.errors import MllamaError
from mllama.hub.download import download_model
from mllama.hub.options import HubOptions
from mllama.utils.telemetry import disable_telemetry

if __name__ == "__main__":
    disable_telemetry()
    arguments = json.loads(sys.argv[1])
    options = HubOptions(**arguments.pop("options", {}))
    try:
        downloaded = download_model(**arguments, options=options, quiet=False)
    except MllamaError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}))
    else:
        print(
            json.dumps(
                {
                    "model": downloaded.model,
                    "weights": list(map(str, downloaded.weight_path)),
                    "notes": downloaded.notes,
                }
            )
        )
