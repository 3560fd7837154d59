"""Has a picture sent that is larger than the object store, with a full disk.

A program of its own: Ray is configured once in a process.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final

from mllama.batch.lines import BatchLine, encode_body
from mllama.cluster.dataset_pool import start_pool
from mllama.cluster.options import ClusterOptions
from mllama.cluster.ray_cluster import ray_cluster
from mllama.errors import MllamaError
from tests.cluster.line_engines import EchoEngine

LINES: Final = 2
PICTURE_BYTES: Final = 300 << 20
"""More than the object store of a cluster that is started for one machine."""


async def ask(ray: Any) -> list[str]:
    """Returns the different errors."""
    options = ClusterOptions(replicas=1, replica_gpus=0)
    pool = await start_pool(ray, options, EchoEngine, Path())
    body = encode_body({"messages": 1})
    lines = [
        BatchLine(
            number,
            f"line-{number}",
            "/v1/chat/completions",
            body,
            attachments={"file:a.png": os.urandom(PICTURE_BYTES)},
        )
        for number in range(LINES)
    ]
    asking = (pool(line) for line in lines)
    found = await asyncio.gather(*asking, return_exceptions=True)
    pool.end()
    return sorted({str(each) for each in found if isinstance(each, MllamaError)})


if __name__ == "__main__":
    with ray_cluster(None, cpus=1) as ray:
        print(json.dumps(asyncio.run(ask(ray))))
