"""Checks the nodes of a cluster before replicas are started on them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from mllama.cluster.options import ClusterOptions
from mllama.errors import MllamaError, listed
from mllama.launch.options import EngineOptions
from mllama.version import __version__

_CHECK_SECONDS: Final = 3600
"""How long the check of a node may take, which downloads a model of the hub."""

_PACKAGES: Final = {"MAX": "max", "Ray": "ray"}


@dataclass(frozen=True)
class NodeReport:
    """What the check of a node has found.

    Attributes:
        versions: Versions by the names of what they are of.
        problem: Why the model can't be served there; empty if it can.
    """

    versions: Mapping[str, str]
    problem: str = ""


def installed_versions() -> dict[str, str]:
    """Returns the versions that must be the same on all nodes, by their names."""
    versions = {
        "mllama": __version__,
        # Of a minor version on, what is pickled on one node can be read on another.
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }
    for name, package in _PACKAGES.items():
        try:
            versions[name] = version(package)
        except PackageNotFoundError:
            versions[name] = "none"
    return versions


def check_this_node(options: EngineOptions) -> NodeReport:
    """Checks the model's files and options on this node, and downloads what it lacks.

    Args:
        options: The engine's options.
    """
    from mllama.cluster.replica import prepare_process

    prepare_process(options)
    try:
        options.resolve()
    except MllamaError as error:
        return NodeReport(installed_versions(), " ".join(str(error).split()))
    return report_versions()


def report_versions() -> NodeReport:
    """Returns what this node has installed."""
    return NodeReport(installed_versions())


def check_versions(ray: Any, cluster: ClusterOptions) -> None:
    """Checks the versions of every node that may get a replica.

    Args:
        ray: The module ``ray``, which is connected.
        cluster: The replicas.

    Raises:
        MllamaError: If a node has other versions than this one.
    """
    _check_each(ray, _alive(ray), cluster, report_versions)


def check_nodes(ray: Any, cluster: ClusterOptions, options: EngineOptions) -> None:
    """Checks that the replicas fit into a cluster, and every node that may get one.

    Args:
        ray: The module ``ray``, which is connected.
        cluster: The replicas.
        options: The engine's options.

    Raises:
        MllamaError: If the replicas don't fit, a node has other versions, or can't load
            the model.
    """
    nodes = _alive(ray)
    check_room(nodes, cluster)
    _check_each(ray, nodes, cluster, check_this_node, options)


def _alive(ray: Any) -> list[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _check_each(
    ray: Any,
    nodes: Sequence[Mapping[str, Any]],
    cluster: ClusterOptions,
    report_of: Callable[..., NodeReport],
    *arguments: Any,
) -> None:
    """Compares the report of each node that has room for a replica with this one.

    Raises:
        MllamaError: If one has other versions, or a problem.
    """
    usable = [node for node in nodes if places(node["Resources"], cluster)]
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    check = ray.remote(num_cpus=0, num_gpus=0, max_retries=0)(report_of)
    running = [
        check.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                node["NodeID"], soft=False
            )
        ).remote(*arguments)
        for node in usable
    ]
    for node, report in zip(usable, running, strict=True):
        name = node["NodeManagerAddress"]
        try:
            compare(name, ray.get(report, timeout=_CHECK_SECONDS))
        except MllamaError:
            raise
        except Exception as error:
            raise MllamaError(_unchecked(name, error)) from error


def places(resources: Mapping[str, float], cluster: ClusterOptions) -> int:
    """Returns how many replicas a node has room for.

    Args:
        resources: What the node has, by Ray's names.
        cluster: The replicas.
    """
    needs = {"CPU": cluster.replica_cpus, "GPU": cluster.replica_gpus or 0}
    return int(
        min(
            (resources.get(name, 0) // need for name, need in needs.items() if need),
            default=cluster.most_replicas,
        )
    )


def check_room(nodes: Sequence[Mapping[str, Any]], cluster: ClusterOptions) -> None:
    """Checks that the replicas fit into a cluster.

    Args:
        nodes: Its nodes, as ``ray.nodes()`` has them.
        cluster: The replicas.

    Raises:
        MllamaError: If they don't.
    """
    room = sum(places(node["Resources"], cluster) for node in nodes)
    if room >= cluster.most_replicas:
        return
    has = listed(
        [
            f"{node['NodeManagerAddress']} with "
            f"{node['Resources'].get('CPU', 0):g} CPUs and "
            f"{node['Resources'].get('GPU', 0):g} GPUs"
            for node in nodes
        ]
    )
    gpus = cluster.replica_gpus or 0
    raise MllamaError(
        f"{cluster.most_replicas} replicas of {cluster.replica_cpus:g} CPUs and "
        f"{gpus:g} GPUs each don't fit into the cluster, which has room for {room} "
        f"({has}): use fewer --replicas, less --replica-cpus, or more nodes"
    )


def compare(node: str, report: NodeReport) -> None:
    """Checks what a node has reported against this one.

    Args:
        node: The node's address.
        report: Its report.

    Raises:
        MllamaError: If it has other versions, or can't load the model.
    """
    own = installed_versions()
    differing = [
        f"{name} {found} there and {own.get(name)} here"
        for name, found in report.versions.items()
        if own.get(name) != found
    ]
    if differing:
        raise MllamaError(
            f"node {node} has other versions than this one: {', '.join(differing)}; "
            "install the same on all nodes"
        )
    if report.problem:
        raise MllamaError(f"node {node} can't serve the model: {report.problem}")


def _unchecked(node: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "No module named" in text:
        return (
            f"node {node} lacks this package or a part of it: pip install "
            "'mllama[cluster]' there"
        )
    return f"node {node} can't be checked: {text[-300:]}"
