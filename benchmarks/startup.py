"""Times the starts of ``mllama serve`` and ``mllama generate``, as a user does.

    python -m benchmarks.startup                 # later starts of the demo model
    python -m benchmarks.startup --first         # also the first one on a machine
    python -m benchmarks.startup -- --model-path DIR --max-batch-size 4

What follows ``--`` are options of both commands.  A server's start ends with the first
200 of ``/health``, that of ``generate`` with its end, one token after its prompt.  A
bare import of MAX's pipelines, which no start can do without, is timed in between: it
tells how fast the machine is.  ``--first`` takes an empty home and cache, so that every
graph is compiled.  Prints one JSON object: seconds, medians with all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

MLLAMA = [sys.executable, "-m", "mllama"]
BASELINE = "import sys; sys.modules['torch'] = None; import max.pipelines.lib"
QUESTION = ["--prompt", "Hello", "--max-new-tokens", "1"]


def finished(command: list[str], environment: dict[str, str]) -> float:
    """Seconds until a command has ended well."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def healthy(options: list[str], environment: dict[str, str]) -> float:
    """Seconds until a server is healthy; it is stopped then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        server = subprocess.Popen(
            [*MLLAMA, "serve", "--port", str(port), *options],
            stderr=log,
            env=environment,
        )
        try:
            while server.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.02)
                else:
                    return time.perf_counter() - start
            log.seek(0)
            raise SystemExit(log.read())
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGINT)
            server.wait()


def summary(seconds: list[float]) -> dict[str, Any]:
    """A median and what it is of."""
    return {
        "median": round(statistics.median(seconds), 2),
        "all": [round(second, 2) for second in seconds],
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="later starts of each")
    parser.add_argument("--first", action="store_true", help="time a first start too")
    parser.add_argument("options", nargs="*", help="of mllama serve and generate")
    arguments = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        environment = dict(os.environ)
        if arguments.first:
            environment |= {"HOME": home, "MLLAMA_CACHE": f"{home}/mllama"}
            report["first serve"] = round(healthy(arguments.options, environment), 1)
        else:
            healthy(arguments.options, environment)
        times: dict[str, list[float]] = {"import": [], "serve": [], "generate": []}
        generate = [*MLLAMA, "generate", *QUESTION, *arguments.options]
        for _ in range(arguments.runs):
            times["import"].append(
                finished([sys.executable, "-c", BASELINE], environment)
            )
            times["serve"].append(healthy(arguments.options, environment))
            times["generate"].append(finished(generate, environment))
        report |= {f"later {name}": summary(each) for name, each in times.items()}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
