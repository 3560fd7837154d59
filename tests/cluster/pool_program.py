"""Kills replicas of a pool, and prints what became of the lines: a program of its own.

Ray is started once in a process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mllama.batch.lines import BatchLine, encode_body
from mllama.cluster.dataset_pool import ReplicaPool, start_pool
from mllama.cluster.options import ClusterOptions
from mllama.cluster.ray_cluster import ray_cluster
from mllama.errors import MllamaError
from tests.cluster.line_engines import EchoEngine, FailingEngine, no_engine

LINES = 400


def line(number: int) -> BatchLine:
    body = encode_body({"messages": number})
    return BatchLine(number, f"request-{number}", "/v1/chat/completions", body)


async def pool_of(ray: Any, start: Any, replicas: int) -> ReplicaPool:
    options = ClusterOptions(replicas=replicas, replica_gpus=0)
    return await start_pool(ray, options, start, Path())


def end(pool: ReplicaPool, ray: Any) -> None:
    for member in pool._members:
        ray.kill(member.actor)


async def kill_one(ray: Any) -> dict[str, Any]:
    """Kills a replica while both answer."""
    pool = await pool_of(ray, EchoEngine, 2)
    first = json.loads((await pool(line(0))).body)["pid"]
    asking = [asyncio.ensure_future(pool(line(number))) for number in range(LINES)]
    await asking[50]
    os.kill(first, signal.SIGKILL)
    answers = [json.loads(each.body) for each in await asyncio.gather(*asking)]
    end(pool, ray)
    return {
        "answered": [each["choices"][0]["message"]["content"] for each in answers],
        "processes": len({each["pid"] for each in answers}),
    }


async def fail(ray: Any, folder: Path) -> dict[str, Any]:
    """Has an engine fail as a whole, and one that doesn't start."""
    pool = await pool_of(ray, partial(FailingEngine, str(folder / "failed")), 1)
    answer = await pool(line(1))
    end(pool, ray)
    try:
        await pool_of(ray, no_engine, 1)
        problem = ""
    except MllamaError as error:
        problem = str(error)
    return {"status": answer.status, "problem": problem}


def main(folder: Path) -> None:
    with ray_cluster(None, cpus=2) as ray:
        found = asyncio.run(kill_one(ray))
        found |= asyncio.run(fail(ray, folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
