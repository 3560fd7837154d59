"""``mllama cluster``: many replicas of the model on a Ray cluster."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any, Final

import click

from mllama.cli.config_file import CONFIG_FILE_SETTINGS
from mllama.cli.options import model_or_demo, options_of
from mllama.cli.sections import SectionedCommand
from mllama.errors import MllamaError
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

_OF_SERVE: Final[dict[str, Any]] = {
    "max_pending_requests": None,
    "admin_key": (),
    "attention": False,
    "no_standby_worker": False,
    "max_worker_restarts": None,
}
"""Options of ``mllama serve`` that a cluster hasn't, with their defaults."""


@click.group()
def cluster() -> None:
    """Serve many replicas of the model on a Ray cluster.

    \b
    It needs the extra: pip install 'mllama[cluster]'
    """


@cluster.command(cls=SectionedCommand)
@options_of(
    "cluster serve",
    config_file=CONFIG_FILE_SETTINGS,
)
def serve(**options: Any) -> None:
    """Serve the APIs of mllama serve from many replicas of the model.

    \b
    mllama cluster serve --replicas 2
    mllama cluster serve --model-path DIR --address HEAD:6379 --replicas 8

    Requests about a picture go to the replica that has it.
    """
    disable_telemetry(server=True)  # MAX reads the environment when imported.
    if not options["trust_remote_code"]:
        block_torch()
    os.environ.setdefault("MAX_SERVE_LOGS_ENABLE_COMPONENTS", "mllama")
    os.environ.setdefault("MAX_SERVE_HOST", "127.0.0.1")
    os.environ.setdefault("MAX_SERVE_METRIC_RECORDING_METHOD", "NOOP")
    from mllama.cluster.ray_import import import_ray

    # Before anything else takes time.
    import_ray(one_machine=options["address"] is None)
    from mllama.cli.server_settings import take_server_options, take_settings
    from mllama.cluster.front_claim import checked_name
    from mllama.cluster.options import ClusterOptions
    from mllama.launch.options import EngineOptions
    from mllama.server.settings import without_queue_bounds

    options |= _OF_SERVE
    settings = take_settings(options)
    server_options = take_server_options(options, settings)
    server_options.log_style.apply_to_stderr()
    model_name = options.pop("served_model_name")
    options["model_path"] = model_or_demo(options["model_path"])
    address, cpus = options.pop("address"), options.pop("ray_cpus")
    name = checked_name(options.pop("name"))
    wanted = ClusterOptions(
        **_taken(ClusterOptions, options),
        drain_seconds=server_options.overload.shutdown_timeout,
    )
    wanted, engine = wanted.for_engine(EngineOptions(**_taken(EngineOptions, options)))
    if options:
        raise MllamaError(f"--{next(iter(options))} has no effect on a cluster")

    from mllama.cluster.nodes import check_nodes
    from mllama.cluster.ray_cluster import ray_cluster
    from mllama.cluster.replica import ReplicaOptions
    from mllama.max_compat.server import configure_logging, configure_metrics
    from mllama.server.model_names import served_name

    # A port that can't be used is refused before anything is started.
    with server_options.bound() as sockets, ray_cluster(address, cpus) as ray:
        click.echo("mllama: checking the nodes of the cluster", err=True)
        check_nodes(ray, wanted, engine)
        from mllama.cluster.server import serve as run

        configure_logging(settings)
        server_options.log_style.apply()
        configure_metrics(settings)
        click.echo(
            f"mllama: starting {wanted.replicas} replicas of {engine.model}", err=True
        )
        run(
            without_queue_bounds(settings),
            name=name,
            cluster=wanted,
            replica=ReplicaOptions(
                engine=engine, model_name=served_name(model_name, engine.model)
            ),
            options=server_options,
            sockets=sockets,
        )


def _taken(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Removes the fields of a dataclass from the options and returns them."""
    return {
        field.name: options.pop(field.name)
        for field in fields(kind)
        if field.name in options
    }
