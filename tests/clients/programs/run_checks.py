"""Runs the checks of a client: ``python run_checks.py CLIENT URL``.

It needs nothing but the client's own environment.  The last line of the output is a
JSON object with the traceback of each check that fails, and null for the others.
"""

import importlib
import json
import sys
import traceback


def main() -> None:
    client, url = sys.argv[1:]
    module = importlib.import_module(client)
    outcomes = {}
    for name, check in list(vars(module).items()):
        if name.startswith("check_"):
            try:
                check(url)
                outcomes[name] = None
            except Exception:
                outcomes[name] = traceback.format_exc()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
