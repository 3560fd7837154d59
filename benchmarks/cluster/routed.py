"""``mllama cluster serve`` with another of Ray Serve's routers.

    python -m benchmarks.cluster.routed round_robin cluster serve --replicas 3

The first argument names the router: ``round_robin``, ``power_of_two`` (Ray Serve's
default, by the requests in progress), or ``consistent_hash``.
"""

from __future__ import annotations

import sys
from functools import partial

ROUTERS = {
    "consistent_hash": "ray.serve.experimental.consistent_hash_router"
    ".ConsistentHashRouter",
    "round_robin": "ray.serve.experimental.round_robin_router.RoundRobinRouter",
    "power_of_two": "ray.serve._private.request_router.pow_2_router"
    ".PowerOfTwoChoicesRequestRouter",
}


def run() -> None:
    """Runs the command line."""
    from mllama.cluster.ray_import import import_ray

    import_ray(one_machine=True)
    from mllama.cli.main import main
    from mllama.cluster import deployment, server

    server.replicas_deployment = partial(
        deployment.replicas_deployment, router=ROUTERS[sys.argv.pop(1)]
    )
    main()


if __name__ == "__main__":
    run()
