"""``mllama cluster``: many replicas of the model on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import click

from mllama.cli.config_file import CONFIG_FILE_SETTINGS
from mllama.cli.options import model_or_demo, options_of
from mllama.cli.refused_by_cluster import refusal_by_a_cluster
from mllama.cli.sections import SectionedCommand
from mllama.errors import MllamaError
from mllama.server.environment import prepare_environment
from mllama.utils.open_files import check_open_files
from mllama.utils.telemetry import are_traces_configured
from mllama.utils.torch_blocker import block_torch

_UNUSED_SERVER_OPTIONS: Final[dict[str, Any]] = {
    "no_standby_worker": False,
    "max_worker_restarts": None,
}
"""Options of a server that a cluster refuses, with their defaults."""


class _ServeCommand(SectionedCommand):
    """Says why it refuses an option that ``mllama serve`` has."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments.

        Raises:
            MllamaError: If one is for ``mllama serve`` alone.
        """
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            reason = refusal_by_a_cluster(error.option_name)
            if reason is None:
                raise
            raise MllamaError(reason) from None


@click.group()
def cluster() -> None:
    """Serve many replicas of the model on a Ray cluster.

    \b
    It needs the extra: pip install 'mllama[cluster]'
    """


@cluster.command(cls=_ServeCommand)
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
    prepare_environment()  # MAX reads it when imported.
    if not options["trust_remote_code"]:
        block_torch()
    from mllama.cluster.ray_import import import_ray

    # Before anything else takes time.
    import_ray(one_machine=options["address"] is None)
    from mllama.cli.server_settings import take_server_options, take_settings
    from mllama.cluster.front_claim import checked_name, claimed
    from mllama.cluster.options import ClusterOptions
    from mllama.engine.serving import ServingOptions
    from mllama.launch.options import EngineOptions
    from mllama.server.settings import without_queue_bounds

    options |= _UNUSED_SERVER_OPTIONS
    # Values out of range are refused before anything is started.
    serving = ServingOptions(**_taken(ServingOptions, options, keep=("attention",)))
    settings = take_settings(options)
    server_options = take_server_options(options, settings)
    server_options.log_style.apply_to_stderr()
    check_open_files()
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

    from mllama.cluster.deployment import DEPLOYMENT
    from mllama.cluster.nodes import check_nodes
    from mllama.cluster.ray_cluster import ray_cluster
    from mllama.cluster.replica import ReplicaOptions
    from mllama.max_compat.server import configure_logging, configure_metrics
    from mllama.max_compat.tracing import start_tracing
    from mllama.server.model_names import served_name

    # A port that can't be used is refused before anything is started, and a name that
    # another front has before nodes download the model.
    with (
        server_options.bound() as sockets,
        ray_cluster(address, cpus) as ray,
        claimed(ray, name, DEPLOYMENT),
    ):
        click.echo("mllama: checking the nodes of the cluster", err=True)
        check_nodes(ray, wanted, engine)
        from mllama.cluster.server import serve as run

        configure_logging(settings)
        server_options.log_style.apply()
        configure_metrics(settings)
        if are_traces_configured():
            start_tracing(settings)
        click.echo(
            f"mllama: starting {wanted.replicas} replicas of {engine.model}", err=True
        )
        run(
            without_queue_bounds(settings),
            name=name,
            cluster=wanted,
            replica=ReplicaOptions(
                engine=engine,
                model_name=served_name(model_name, engine.model),
                serving=serving,
            ),
            options=server_options,
            sockets=sockets,
        )


def _taken(
    kind: Any, options: dict[str, Any], keep: Sequence[str] = ()
) -> dict[str, Any]:
    """Removes the fields of a dataclass from the options and returns them.

    Args:
        kind: The dataclass.
        options: The command's options by name.
        keep: Fields that stay for another one, too.
    """
    names = [field.name for field in fields(kind) if field.name in options]
    taken = {name: options[name] for name in names}
    for name in set(names) - set(keep):
        del options[name]
    return taken
