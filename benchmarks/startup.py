"""Measures the startup times of ``mllama serve`` and ``mllama generate``.

    python -m benchmarks.startup                 # later runs of the demo model
    python -m benchmarks.startup --first         # also the first run on a machine
    python -m benchmarks.startup -- --model-path DIR --max-batch-size 4

Arguments after ``--`` are options of both commands.  The start of a server ends with
the first 200 from ``/health``; a ``generate`` ends after one token.  In between, the
import of MAX's pipelines, which every run needs, is timed to show how fast the
machine is.  ``--first`` uses an empty home and cache, so that every graph is compiled.
Prints one JSON object with all times and their medians in seconds.
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
    """Returns the seconds until a command has succeeded."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def healthy(options: list[str], environment: dict[str, str]) -> float:
    """Returns the seconds until a server is healthy, and stops it."""
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
    """Returns the median of some times with all of them."""
    return {
        "median": round(statistics.median(seconds), 2),
        "all": [round(second, 2) for second in seconds],
    }


def main() -> None:
    """Measures the startups and prints the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=5, help="later runs of each command"
    )
    parser.add_argument("--first", action="store_true", help="also time a first run")
    parser.add_argument(
        "options", nargs="*", help="options of mllama serve and generate"
    )
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
