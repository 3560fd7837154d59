"""The application for ``serve run`` and Ray Serve's configuration files."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final

import ray
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama.cluster.deployment import DEPLOYMENT, replicas_deployment
from mllama.cluster.nodes import check_versions
from mllama.cluster.options import ClusterOptions
from mllama.cluster.replica import ReplicaOptions, prepare_process
from mllama.engine.serving import ServingOptions
from mllama.errors import MllamaError
from mllama.launch.options import EngineOptions
from mllama.server.access.origins import checked_origins
from mllama.server.environment import prepare_environment
from mllama.server.model_names import served_name

if TYPE_CHECKING:
    from mllama.max_compat.server import Settings
    from mllama.server.options import ServerOptions

logger = logging.getLogger("ray.serve")

_FRONT: Final = "Front"

_API_KEY: Final = "MLLAMA_API_KEY"
_ADMIN_KEY: Final = "MLLAMA_ADMIN_KEY"


def _split(value: Any) -> Any:
    """Returns the parts of a text between commas; another value as it is."""
    if not isinstance(value, str):
        return value
    return [each for part in value.split(",") if (each := part.strip())]


_Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]


@dataclass(frozen=True, kw_only=True)
class FrontOptions:
    """The arguments that concern neither the replicas nor their engines.

    Attributes:
        served_model_name: Name of the model in requests; None is the repository's id or
            the folder's name.
        api_key_file: File with a key in each line, on the nodes of the fronts.
            ``MLLAMA_API_KEY`` may have keys too.
        allowed_hosts: Names by which the server may be called, beside those that
            ``mllama serve`` answers to on loopback; without any, it answers to all.
            In text, there are commas between them.
        cors_origin: Origins of web pages that may use the server; in text, the same.
        max_queue_size: Requests that may wait in a front.
        fronts: Processes that answer HTTP.
        front_cpus: CPUs that each of them reserves.

    Raises:
        MllamaError: If an origin is none.
    """

    served_model_name: str | None = None
    api_key_file: str | None = None
    allowed_hosts: _Texts = ()
    cors_origin: _Texts = ()
    max_queue_size: int | None = None
    fronts: int = 1
    front_cpus: float = 1

    def __post_init__(self) -> None:
        checked_origins(self.cors_origin)


def build_app(arguments: Mapping[str, Any]) -> Application:
    """Returns the application: fronts for HTTP, and the replicas behind them.

    Args:
        arguments: Options of ``mllama cluster serve`` by their names in Python: those
            of the model, such as ``model_path``, of the replicas, such as ``replicas``,
            and those of :class:`FrontOptions`.  Numbers may be text, as on a command
            line.

    Raises:
        MllamaError: If a name is unknown or a value is wrong.
    """
    values = dict(arguments)
    # Booleans and lists of a command line are text too, which pydantic reads.
    cluster = _taken(ClusterOptions, values)
    engine = _taken(EngineOptions, values)
    serving = _taken(ServingOptions, values)
    front = _taken(FrontOptions, values)
    if values:
        raise MllamaError(
            f"build_app has no argument {next(iter(values))!r}; its arguments are "
            "options of `mllama cluster serve`, such as model_path and replicas"
        )
    cluster, engine = cluster.for_engine(engine)
    replica = ReplicaOptions(
        engine=engine,
        model_name=served_name(front.served_model_name, engine.model),
        serving=serving,
    )
    return serve.deployment(
        name=_FRONT,
        num_replicas=front.fronts,
        # Its own queue bounds what waits, and has a place in it for each client.
        max_ongoing_requests=100_000,
        ray_actor_options={"num_cpus": front.front_cpus},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=cluster.drain_seconds,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )(serve.ingress()(_Front)).bind(
        replicas_deployment(cluster, replica),
        cluster,
        front,
        {
            name: os.environ[name]
            for name in (_API_KEY, _ADMIN_KEY)
            if name in os.environ
        },
    )


def _taken(kind: Any, values: dict[str, Any]) -> Any:
    """Removes a dataclass's fields from values, and returns it with them.

    Raises:
        MllamaError: If a value is wrong.
    """
    names = {field.name for field in fields(kind)}
    own = {name: values.pop(name) for name in list(values) if name in names}
    try:
        return TypeAdapter(kind).validate_python(own)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "an argument"
        reason = first["msg"].removeprefix("Value error, ")
        raise MllamaError(f"{name}: {reason}") from error


class WithoutLifespan:
    """An application whose own start and end are left out.

    That of MAX Serve would start a worker.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and says that start and end are done."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})


def server_options(
    options: FrontOptions, settings: Settings, environment: Mapping[str, str]
) -> ServerOptions:
    """Returns the options of a server behind Ray Serve's proxies.

    Args:
        options: Options of the front.
        settings: Settings of the server.
        environment: Variables that the application was built with.

    Raises:
        MllamaError: If a value is wrong.
    """
    from mllama.server.access.keys import read_keys
    from mllama.server.options import ServerOptions
    from mllama.server.scheduling.options import overload_options

    keys = read_keys((), options.api_key_file, environment.get(_API_KEY))
    if not keys:
        logger.warning(
            "whoever can reach Ray Serve's proxies may use this server%s: set "
            "%s or api_key_file",
            # A page may have a name of its own lead there (DNS rebinding).
            "" if options.allowed_hosts else ", and so may web pages in their browsers",
            _API_KEY,
        )
    return ServerOptions(
        # Ray Serve's proxies listen, which answer to any name.
        host="0.0.0.0",
        port=0,
        api_keys=keys,
        admin_keys=read_keys((), None, environment.get(_ADMIN_KEY)),
        origins=options.cors_origin,
        allowed_hosts=options.allowed_hosts,
        checks_hosts=bool(options.allowed_hosts),
        overload=overload_options(settings),
    )


class _Front:
    """A process that answers HTTP behind Ray Serve's proxies.

    Args:
        replicas: The handle of the replicas.
        cluster: How many there are.
        options: Options of this process.
        environment: Variables that the application was built with.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it.
        self,
        replicas: DeploymentHandle[Any],
        cluster: ClusterOptions,
        options: FrontOptions,
        environment: Mapping[str, str],
    ) -> None:
        # Replicas of other versions would fail at the first request, or later.
        await asyncio.to_thread(check_versions, ray, cluster)
        prepare_process(EngineOptions())
        prepare_environment()
        os.environ.update(environment)
        from mllama.cluster.front import Front
        from mllama.server.settings import settings_of, without_queue_bounds

        settings = settings_of(
            {}
            if options.max_queue_size is None
            else {"MAX_SERVE_MAX_QUEUE_SIZE": options.max_queue_size}
        )
        self._front = Front(
            without_queue_bounds(settings),
            server_options(options, settings, environment),
            cluster,
            application=serve.get_replica_context().app_name,
            deployment=DEPLOYMENT,
        )
        self._running = AsyncExitStack()
        await self._front.connect(replicas)
        await self._running.enter_async_context(self._front.running())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Is called by Ray Serve for the application."""
        return WithoutLifespan(self._front.app)

    async def __del__(self) -> None:
        """Ends what goes on beside requests."""
        running = getattr(self, "_running", None)
        if running is not None:
            await running.aclose()
