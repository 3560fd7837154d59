"""Options of a cluster, of ``mllama cluster serve`` and ``mllama batch --ray``."""

from __future__ import annotations

from typing import Final

from mllama.cli.option_sections import CLUSTER
from mllama.launch.option import Option

CLUSTER_OPTIONS: Final = (
    Option(
        name="replicas",
        section=CLUSTER,
        takers=("cluster serve", "batch"),
        kind="count",
        metavar="N",
        default=2,
        description="Replicas of the model, each an engine of its own.",
    ),
    Option(
        name="max_replicas",
        section=CLUSTER,
        takers=("cluster serve",),
        kind="count",
        metavar="N",
        description="Start further replicas under load, up to so many, and end them "
        "when it is over.",
        details="There is another one when the requests in progress fill the batches "
        "of those that run.",
        default_text="as many as --replicas",
    ),
    Option(
        name="address",
        section=CLUSTER,
        takers=("cluster serve", "batch"),
        kind="text",
        metavar="HOST:PORT",
        description="Ray's head node of a cluster to run the replicas on; auto is the "
        "cluster that this machine belongs to.",
        default_text="a cluster of this machine alone, on loopback, which is started "
        "and ended with the command",
    ),
    Option(
        name="name",
        section=CLUSTER,
        takers=("cluster serve",),
        kind="text",
        metavar="NAME",
        default="mllama",
        description="Name of Ray Serve's application in the cluster. Servers of one "
        "cluster each need one of their own.",
    ),
    Option(
        name="replica_cpus",
        section=CLUSTER,
        takers=("cluster serve", "batch"),
        kind="number",
        metavar="N",
        default=1.0,
        description="CPUs that each replica reserves in the cluster.",
        details="It computes with as many threads as --num-threads says, or as its "
        "node has cores.",
    ),
    Option(
        name="replica_gpus",
        section=CLUSTER,
        takers=("cluster serve", "batch"),
        kind="number",
        metavar="N",
        description="GPUs that each replica reserves and runs on.",
        default_text="as many as --devices names, else none",
    ),
    Option(
        name="ray_cpus",
        section=CLUSTER,
        takers=("cluster serve", "batch"),
        kind="count",
        metavar="N",
        description="CPUs of this machine for Ray to reserve, if the cluster is "
        "started here.",
        default_text="its cores",
    ),
    Option(
        name="max_ongoing_requests",
        section=CLUSTER,
        takers=("cluster serve",),
        kind="count",
        metavar="N",
        description="Requests that a replica takes at a time. Further ones go to a "
        "fallback, or wait.",
        default_text="twice --max-batch-size",
    ),
    Option(
        name="fallback_replicas",
        section=CLUSTER,
        takers=("cluster serve",),
        kind="integer",
        metavar="N",
        default=2,
        description="Further replicas that may answer about a picture while its own "
        "has as many requests as it takes.",
        details="Each of them encodes the picture once more.",
    ),
)
