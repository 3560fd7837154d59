"""``mllama serve`` whose event loop is probed, and whose ``/probe`` tells the result.

    python -m benchmarks.probed_server serve --devices cpu

``GET /probe`` returns figures of a task that sleeps for a millisecond again and again,
since the last call, in seconds.  ``late`` is by how much its latest wake-up was late:
something else held the loop or Python's lock, or the system gave the core to another
process.  ``busy`` is the longest time that the loop's thread computed between two
wake-ups, which other processes hardly change.  ``memory`` is the server's largest
resident memory, in bytes.  ``collected`` is the number of objects that a full garbage
collection visits.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Callable
from typing import Any

_SLEEP = 0.001

AddRoutes = Callable[..., None]


def probed(add_routes: AddRoutes) -> AddRoutes:
    """Returns what adds an application's routes, and the probe.

    It is called in the event loop, which runs the probe from then on.
    """
    tasks: list[asyncio.Task[None]] = []

    def add_probe_and_routes(application: Any, *arguments: Any) -> None:
        figures = {"late": 0.0, "busy": 0.0}

        async def probe() -> None:
            while True:
                started, computed = time.perf_counter(), time.thread_time()
                await asyncio.sleep(_SLEEP)
                late = time.perf_counter() - started - _SLEEP
                figures["late"] = max(figures["late"], late)
                busy = time.thread_time() - computed
                figures["busy"] = max(figures["busy"], busy)

        async def report() -> dict[str, float]:
            # Linux counts in KiB.
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            result = {**figures, "memory": memory, "collected": len(gc.get_objects())}
            figures.update(late=0.0, busy=0.0)
            return result

        application.add_api_route("/probe", report)
        add_routes(application, *arguments)
        tasks.append(asyncio.get_running_loop().create_task(probe()))

    return add_probe_and_routes


def run() -> None:
    """Runs the command line."""
    # Not above: processes that prepare images import this module, too.
    from mllama.cli.main import main
    from mllama.server import app

    app.add_routes = probed(app.add_routes)
    main()


if __name__ == "__main__":
    run()
