"""The application for ``serve run`` takes options by their names."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from mllama.cluster import build_app, serve_app
from mllama.cluster.options import ClusterOptions
from mllama.cluster.serve_app import (
    FrontOptions,
    WithoutLifespan,
    _Front,
    server_options,
)
from mllama.errors import MllamaError
from mllama.server.settings import settings_of


def deployments(application: Any) -> dict[str, Any]:
    """The deployments of an application by their names."""
    front = application._bound_deployment
    (replicas,) = [
        each for each in front.init_args if hasattr(each, "_bound_deployment")
    ]
    return {each.name: each for each in (front, replicas._bound_deployment)}


def test_text_of_a_command_line_becomes_numbers() -> None:
    found = deployments(
        build_app(
            {
                "replicas": "3",
                "max_batch_size": "2",
                "fronts": "2",
                "served_model_name": "mine",
                "devices": "cpu",
            }
        )
    )
    assert found["Front"].num_replicas == 2
    assert found["Replica"].num_replicas == 3
    assert found["Replica"].max_ongoing_requests == 4
    (options,) = found["Replica"].init_args
    assert options.model_name == "mine"
    assert options.engine.max_batch_size == 2
    router = found["Replica"]._deployment_config.request_router_config
    assert router.request_router_class.endswith("ConsistentHashRouter")
    assert router.request_router_kwargs == {"num_fallback_replicas": 2}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"replica": 3}, "build_app has no argument 'replica'"),
        ({"replicas": "many"}, "replicas: Input should be a valid integer"),
        ({"replicas": 0}, "--replicas must be at least 1, not 0"),
        ({"devices": "cpu", "replica_gpus": 1}, "contradict each other"),
        ({"cors_origin": "example.org"}, "--cors-origin must be like https://"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(MllamaError) as raised:
        build_app(arguments)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_only_names_that_are_given_are_answered() -> None:
    front = deployments(
        build_app({"allowed_hosts": "llama.example, llama", "cors_origin": ["*"]})
    )["Front"]
    (options,) = [each for each in front.init_args if isinstance(each, FrontOptions)]
    policy = server_options(options, settings_of({}), {"MLLAMA_API_KEY": "a"}).policy()
    assert policy.origins == ("*",)
    assert policy.hosts is not None
    accepted = ["llama.example:8000", "llama", "127.0.0.1:8000", "evil.example"]
    assert [policy.hosts.accepts(name) for name in accepted] == [True] * 3 + [False]
    open_to_all = server_options(FrontOptions(), settings_of({}), {})
    assert open_to_all.policy().hosts is None


@pytest.mark.parametrize(
    ("options", "environment", "says"),
    [
        (FrontOptions(), {}, "use this server, and so may web pages in their browsers"),
        (FrontOptions(allowed_hosts=("a",)), {}, "may use this server: set MLLAMA_API"),
        (FrontOptions(), {"MLLAMA_API_KEY": "a"}, ""),
    ],
)
def test_a_server_without_a_key_says_so(
    options: FrontOptions,
    environment: dict[str, str],
    says: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Ray Serve's own configuration ends it here.
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)
    server_options(options, settings_of({}), environment)
    assert says in caplog.text
    assert bool(caplog.records) == bool(says)


def test_a_front_compares_the_versions_of_the_nodes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def differ(ray: Any, cluster: ClusterOptions) -> None:
        asked.append(cluster)
        raise MllamaError("node 10.0.0.2 has other versions than this one")

    def prepare(options: Any) -> None:
        raise AssertionError("it has begun")

    monkeypatch.setattr(serve_app, "check_versions", differ)
    monkeypatch.setattr(serve_app, "prepare_process", prepare)
    cluster = ClusterOptions(replicas=3)
    start = _Front.__init__(
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        cluster,
        FrontOptions(),
        {},
    )
    with pytest.raises(MllamaError, match="other versions than this one"):
        asyncio.run(start)
    assert asked == [cluster]


def test_more_replicas_come_under_load() -> None:
    found = deployments(build_app({"replicas": 1, "max_replicas": 3}))
    scaling = found["Replica"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    assert scaling.target_ongoing_requests == 4


def test_the_start_and_the_end_of_max_serve_are_left_out() -> None:
    passed: list[str] = []
    sent: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def receive() -> Any:
        return {}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def run() -> None:
        for kind in ("lifespan", "http"):
            await WithoutLifespan(app)({"type": kind}, receive, send)

    asyncio.run(run())
    assert passed == ["http"]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
