"""``mllama batch --ray``: the replicas of a cluster answer."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mllama.cli.batch_run import TerminalBatch
from mllama.errors import MllamaError

if TYPE_CHECKING:
    from mllama.launch.options import EngineOptions

CLUSTER_SETTINGS: Final = (
    "address",
    "replicas",
    "replica_cpus",
    "replica_gpus",
    "ray_cpus",
)
"""The options of a cluster, which need --ray."""


def take_cluster_settings(settings: dict[str, Any], *, ray: bool) -> dict[str, Any]:
    """Removes the options of a cluster from the command's, and returns them.

    Args:
        settings: The options of the running command.
        ray: Whether the command has --ray.

    Raises:
        MllamaError: If one is given without --ray.
    """
    context = click.get_current_context()
    for name in CLUSTER_SETTINGS:
        source = context.get_parameter_source(name)
        if not ray and source is click.core.ParameterSource.COMMANDLINE:
            raise MllamaError(f"--{name.replace('_', '-')} needs --ray")
    return {name: settings.pop(name) for name in CLUSTER_SETTINGS}


def run_on_cluster(
    run: TerminalBatch,
    options: EngineOptions,
    model_name: str,
    folder: Path,
    cluster: dict[str, Any],
) -> int:
    """Has the replicas of a cluster answer, and returns the exit code.

    Args:
        run: The batch.
        options: The engine's options.
        model_name: The name of the model in the answers.
        folder: Where relative ``file:`` URLs begin.
        cluster: The options of the cluster.

    Raises:
        MllamaError: If there is no such cluster, or a node can't serve the model.
    """
    from mllama.cluster.dataset_pool import start_pool
    from mllama.cluster.dataset_replica import ReplicaEngine
    from mllama.cluster.nodes import check_nodes
    from mllama.cluster.options import ClusterOptions
    from mllama.cluster.ray_cluster import ray_cluster

    address, cpus = cluster.pop("address"), cluster.pop("ray_cpus")
    wanted, engine = ClusterOptions(**cluster).for_engine(options)
    start = partial(ReplicaEngine, engine, model_name, str(folder.resolve()))
    with ray_cluster(address, cpus) as ray:
        check_nodes(ray, wanted, engine)
        if not run.quiet:
            click.echo(
                f"mllama: starting {wanted.replicas} replicas of {engine.model}",
                err=True,
            )

        async def main() -> int:
            pool = await start_pool(ray, wanted, start, folder)
            try:
                return await run.run(pool, pool.slots)
            finally:
                pool.end()

        return asyncio.run(main())
