"""Kills replicas, asks about datasets, and prints what came of it.

A program of its own: Ray is configured once in a process.  Its arguments are a folder
and the address of a cluster.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import mllama.cluster.nodes
from mllama.batch.inputs.question import Question
from mllama.batch.lines import BatchLine, encode_body
from mllama.cluster import dataset
from mllama.cluster.dataset import answer_with
from mllama.cluster.dataset_pool import ReplicaPool, start_pool
from mllama.cluster.dataset_rows import LineOfRow
from mllama.cluster.front_claim import claimed
from mllama.cluster.nodes import check_nodes, check_versions
from mllama.cluster.options import ClusterOptions
from mllama.cluster.ray_cluster import ray_cluster
from mllama.errors import MllamaError
from mllama.launch.options import EngineOptions
from tests.cluster.line_engines import (
    DyingEngine,
    EchoEngine,
    ExitingEngine,
    FailingEngine,
    no_engine,
)

LINES = 400


def line(number: int) -> BatchLine:
    body = encode_body({"messages": number})
    return BatchLine(number, f"request-{number}", "/v1/chat/completions", body)


async def pool_of(ray: Any, start: Any, replicas: int) -> ReplicaPool:
    options = ClusterOptions(replicas=replicas, replica_gpus=0)
    return await start_pool(ray, options, start, Path())


async def kill_one(ray: Any) -> dict[str, Any]:
    """Kills a replica while both answer."""
    pool = await pool_of(ray, EchoEngine, 2)
    first = json.loads((await pool(line(0))).body)["pid"]
    asking = [asyncio.ensure_future(pool(line(number))) for number in range(LINES)]
    await asking[50]
    os.kill(first, signal.SIGKILL)
    answers = [json.loads(each.body) for each in await asyncio.gather(*asking)]
    pool.end()
    return {
        "answered": [int(each["choices"][0]["message"]["content"]) for each in answers],
        "processes": len({each["pid"] for each in answers}),
    }


async def fail(ray: Any, folder: Path) -> dict[str, Any]:
    """Has an engine fail as a whole, and one that doesn't start."""
    pool = await pool_of(ray, partial(FailingEngine, str(folder / "failed")), 1)
    answer = await pool(line(1))
    pool.end()
    try:
        await pool_of(ray, no_engine, 1)
        problem = ""
    except MllamaError as error:
        problem = str(error)
    return {"status": answer.status, "problem": problem}


def ask_about_datasets(ray: Any, folder: Path) -> dict[str, Any]:
    """Asks about a Parquet file and about arrays of pixels."""
    import pyarrow
    import pyarrow.parquet

    from mllama.cluster import answer, answer_into

    pictures = [b"a", b"bb", None, b"dddd"] * 10
    table = pyarrow.table({"image": pictures, "name": [f"row {i}" for i in range(40)]})
    pyarrow.parquet.write_table(table, folder / "in.parquet")
    rows = ray.data.read_parquet(str(folder / "in.parquet"))
    pixels = [{"image": np.full((2, 3, 3), i, np.uint8)} for i in range(5)]
    answers = [
        answer(rows, prompt="What?", id_column="name", fields={"max_tokens": 3}),
        answer(ray.data.from_items(pixels), prompt="What?", replica_cpus=0.5),
    ]
    output = str(folder / "out.jsonl")

    async def cell(rows: Any) -> Any:
        # In a notebook, an event loop runs.
        return answer_into(rows, output, id_column="name", prompt="What?")

    counts = [
        asyncio.run(cell(rows.limit(15))),
        answer_into(rows, output, id_column="name", prompt="What?"),
    ]
    problems = []
    for wrong in (
        {"image_column": "picture"},
        {"prompt_column": "name"},
        {"weigh": 1},
        {"replicas": 3},
    ):
        try:
            answer(rows, **{"prompt": "What?", "id_column": "name", **wrong})
        except MllamaError as error:
            problems.append(str(error))
    return {
        "rows": [
            {key: value for key, value in row.items() if key != "image"}
            for each in answers
            for row in each.take_all()
        ],
        "counts": [[each.answered, each.failed, each.skipped] for each in counts],
        "problems": problems,
    }


def claim_twice(ray: Any) -> str:
    """Returns what a second front of the same name is told."""
    from ray import serve

    # Ray Serve itself isn't started here.
    serve.status = lambda: SimpleNamespace(applications={})
    with claimed(ray, "mllama", "Replica"):
        try:
            with claimed(ray, "mllama", "Replica"):
                return ""
        except MllamaError as error:
            return str(error)


def check_room(ray: Any, cluster: Any, engine: Any) -> None:
    mllama.cluster.nodes.check_room(ray.nodes(), cluster)


def ask_a_replica_that_dies(ray: Any, folder: Path) -> list[dict[str, Any]]:
    """Asks about rows, with a replica that is killed amid them."""
    rows = ray.data.from_items(
        [{"id": i, "question": f"question {i}"} for i in range(100)]
    )
    line_of = LineOfRow(Question(None, None, {}), None, "question", None)
    start = partial(DyingEngine, str(folder / "died"))
    options = ClusterOptions(replicas=1, replica_gpus=0)
    found: list[dict[str, Any]] = answer_with(rows, line_of, options, start).take_all()
    return found


def ask_what_no_replica_survives(ray: Any, folder: Path) -> dict[str, Any]:
    """Asks about rows of which one ends each replica."""
    rows = ray.data.from_items([{"question": f"question {i}"} for i in range(9)])
    line_of = LineOfRow(Question(None, None, {}), None, "question", None)
    deaths = folder / "deaths"
    start = partial(ExitingEngine, str(deaths))
    options = ClusterOptions(replicas=1, replica_gpus=0)
    try:
        answer_with(rows, line_of, options, start).take_all()
        error = ""
    except ray.exceptions.RayError as raised:
        error = str(raised)
    return {"deaths": len(deaths.read_text()), "error": error}


def raised(check: Callable[[], None]) -> str:
    try:
        check()
    except MllamaError as error:
        return str(error)
    return ""


def check_what_is_wrong(ray: Any) -> dict[str, str]:
    """Returns what is said about clusters and nodes that can't serve a model."""
    own = mllama.cluster.nodes.installed_versions
    others = {**own(), "MAX": "26.6.0"}
    no_model = EngineOptions(model_path="/models/none", devices="cpu")
    found = {}
    for name, cluster, engine, versions in (
        ("room", ClusterOptions(replicas=9), EngineOptions(devices="cpu"), own),
        ("model", ClusterOptions(replicas=2), no_model, own),
        ("versions", ClusterOptions(), no_model, lambda: others),
    ):
        # Of this process: the node reports what it has.
        mllama.cluster.nodes.installed_versions = versions
        found[name] = raised(partial(check_nodes, ray, cluster, engine))
        # What a front of Ray Serve does, whose replicas tell the rest.
        found[f"{name} of a front"] = raised(partial(check_versions, ray, cluster))
    mllama.cluster.nodes.installed_versions = own
    return found


def main(folder: Path, address: str) -> None:
    # The nodes need no model.
    mllama.cluster.nodes.check_nodes = check_room
    with ray_cluster(address) as ray:
        dataset.ReplicaEngine = EchoEngine  # type: ignore[misc,assignment]
        found: dict[str, Any] = {"second_front": claim_twice(ray)}
        found["wrong"] = check_what_is_wrong(ray)
        found |= asyncio.run(kill_one(ray))
        found |= asyncio.run(fail(ray, folder))
        ray.data.DataContext.get_current().enable_progress_bars = False
        found |= ask_about_datasets(ray, folder)
        found["after_a_death"] = ask_a_replica_that_dies(ray, folder)
        found["no_end"] = ask_what_no_replica_survives(ray, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
