"""Runs Ray on this machine until its input ends, and prints the cluster's address."""

from __future__ import annotations

import sys

from mllama.cluster.ray_cluster import ray_cluster
from tests.cluster.shared_ray import CPUS

if __name__ == "__main__":
    with ray_cluster(None, cpus=CPUS) as ray:
        print(ray.get_runtime_context().gcs_address, flush=True)
        sys.stdin.read()
