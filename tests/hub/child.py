"""Fetches a model as a program of its own: the hub's client reads its environment as it
is imported.  Arguments are those of ``download_model`` in JSON."""

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
        fetched = download_model(**arguments, options=options, quiet=False)
    except MllamaError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}))
    else:
        print(
            json.dumps(
                {"model": fetched.model, "weights": list(map(str, fetched.weight_path))}
            )
        )
