"""The replicas as an application of Ray Serve."""

from __future__ import annotations

from typing import Any, Final

from ray import serve
from ray.serve.config import RequestRouterConfig

from mllama.cluster.options import ClusterOptions
from mllama.cluster.replica import Replica, ReplicaOptions
from mllama.launch.defaults import DEFAULT_BATCH_SIZE

DEPLOYMENT: Final = "Replica"
"""The name of the deployment."""

CONSISTENT_HASH: Final = (
    "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
)
"""Ray Serve's router that sends requests of the same key to the same replica."""

_HEALTH_PERIOD_SECONDS: Final = 2
"""Pause between two questions whether a replica is well."""

_HEALTH_TIMEOUT_SECONDS: Final = 60
"""A replica whose process doesn't answer for so long is replaced."""

_LIMIT_VARIABLE: Final = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"
_MESSAGE_BYTES: Final = 2**31 - 1
"""The largest request that a replica takes: as large as gRPC's can be.

Ray's own limit, 4 MiB, is less than a photo of a phone.  The server bounds requests.
"""

_STARTS: Final = 2
"""Times that a replica is started before the deployment is given up."""

_BACKOFF: Final = {
    "initial_backoff_s": 0.01,
    "backoff_multiplier": 1.5,
    "max_backoff_s": 0.1,
}
"""When a request that found all of its replicas busy looks again.

Ray's own limit, half a second, would leave a replica idle for longer than it takes to
answer.
"""


def batch_size_of(options: ReplicaOptions) -> int:
    """Returns how many answers a replica generates at a time.

    Args:
        options: What replicas are started with.
    """
    kind = "cpu" if options.engine.devices == "cpu" else "gpu"
    return options.engine.max_batch_size or DEFAULT_BATCH_SIZE[kind]


def replicas_deployment(
    cluster: ClusterOptions, options: ReplicaOptions, router: str = CONSISTENT_HASH
) -> Any:
    """Returns the deployment of the replicas, bound to what they are started with.

    Args:
        cluster: How many there are, and what each has.
        options: What each is started with.
        router: Ray Serve's class that chooses a replica; benchmarks compare others.
    """
    batch_size = batch_size_of(options)
    scaling: dict[str, Any] = {"num_replicas": cluster.replicas}
    if cluster.max_replicas is not None:
        scaling = {
            "autoscaling_config": {
                "min_replicas": cluster.replicas,
                "max_replicas": cluster.max_replicas,
                "target_ongoing_requests": batch_size,
                "metrics_interval_s": 1,
                "look_back_period_s": 5,
                "upscale_delay_s": 5,
                "downscale_delay_s": 60,
            }
        }
    is_hashing = router == CONSISTENT_HASH
    return serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=cluster.ongoing_requests(batch_size),
        ray_actor_options={
            "num_cpus": cluster.replica_cpus,
            "num_gpus": cluster.replica_gpus or 0,
            "runtime_env": {"env_vars": {_LIMIT_VARIABLE: str(_MESSAGE_BYTES)}},
        },
        request_router_config=RequestRouterConfig(
            request_router_class=router,
            request_router_kwargs={"num_fallback_replicas": cluster.fallback_replicas}
            if is_hashing
            else {},
            **_BACKOFF,
        ),
        health_check_period_s=_HEALTH_PERIOD_SECONDS,
        health_check_timeout_s=_HEALTH_TIMEOUT_SECONDS,
        graceful_shutdown_timeout_s=cluster.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=_STARTS,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        **scaling,
    )(Replica).bind(options)
