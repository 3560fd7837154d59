"""All routes of the server: this package's, and those of MAX that are kept."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from fastapi import FastAPI
from starlette.types import Scope

from mllama.max_compat import patches
from mllama.max_compat.server import (
    ServingTokenGeneratorSettings,
    Settings,
    fastapi_app,
)
from mllama.server.access.cors import CorsMiddleware
from mllama.server.access.middleware import AccessMiddleware
from mllama.server.access.policy import ADMIN_PATHS
from mllama.server.arrival.request_head import RequestHeadMiddleware
from mllama.server.arrival.shared_memory import (
    MAX_WAIT_SECONDS,
    SharedMemory,
    SharedMemoryMiddleware,
)
from mllama.server.batches import service
from mllama.server.batches.service import BatchService
from mllama.server.capabilities import ServerCapabilities
from mllama.server.clients import client_of
from mllama.server.dialects.anthropic import routes as anthropic
from mllama.server.dialects.anthropic.errors import ANTHROPIC_ERRORS
from mllama.server.dialects.ollama import routes as ollama
from mllama.server.dialects.ollama.errors import OLLAMA_ERRORS
from mllama.server.dialects.openai import routes as openai
from mllama.server.engine_client import EngineClient
from mllama.server.errors import ErrorForm, add_error_handlers
from mllama.server.health_routes import ALWAYS_READY, Readiness, add_health_routes
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.metrics_page import add_metrics_routes
from mllama.server.observability.metrics import METRICS
from mllama.server.observed_engine import ObservedEngineClient
from mllama.server.options import ServerOptions
from mllama.server.paths import path_below_root
from mllama.server.request_middleware import RequestMiddleware
from mllama.server.schema_route import add_schema_route
from mllama.server.shutdown import Shutdown, ShutdownMiddleware
from mllama.server.web.routes import add_page_routes

MAX_ROUTES: Final = ("/version",)
"""Paths that MAX answers.  Its others are for models, or for purposes, that this server
doesn't have, and some would reach the model past this package's checks."""


ANSWERING: Final = MappingProxyType(
    {
        "openai": ("/v1/chat/completions", "/v1/completions", "/v1/responses"),
        "anthropic": ("/v1/messages",),
        "ollama": ("/api/chat", "/api/generate"),
    }
)
"""Routes that most requests for answers come by, by their APIs."""


def error_form(scope: Scope) -> ErrorForm:
    """Returns the form of a request's errors, of one without a route too.

    Args:
        scope: The ASGI scope of the request.
    """
    path = path_below_root(scope)
    if ollama.is_ollama_path(path):
        return OLLAMA_ERRORS
    if anthropic.is_anthropic_request(path, scope):
        return ANTHROPIC_ERRORS
    return openai.error_form(path)


def dialect(scope: Scope) -> str:
    """Returns the name of the API that a request came by, for metrics.

    Args:
        scope: The ASGI scope of a request that has a route.
    """
    path = path_below_root(scope)
    if ollama.is_ollama_path(path):
        return "ollama"
    return "anthropic" if anthropic.is_anthropic_request(path, scope) else "openai"


def shared_memory(options: ServerOptions) -> SharedMemory:
    """Returns the memory of a server's requests.

    Args:
        options: The server's options.
    """
    limit = options.overload.max_time_to_first_token
    return SharedMemory(
        max_waiting=options.overload.max_queue_size,
        max_wait=MAX_WAIT_SECONDS if limit is None else min(limit, MAX_WAIT_SECONDS),
    )


def new_application(
    settings: Settings,
    serving: ServingTokenGeneratorSettings | None,
    options: ServerOptions,
    shutdown: Shutdown | None = None,
    memory: SharedMemory | None = None,
) -> FastAPI:
    """Returns MAX's application with those of its routes that are kept.

    Args:
        settings: Settings of the server.
        serving: MAX's settings of the model; None if another process has the model,
            where nothing can be reset from here.
        options: The server's options.
        shutdown: Counts its requests and refuses them in the end; None does neither.
        memory: The memory of its requests, if others share it, such as the lines of
            batches; None is one of its own.
    """
    app = fastapi_app(settings, serving)
    policy = options.policy()
    resets = policy.admin_keys and serving is not None
    patches.keep_routes(app, (*MAX_ROUTES, *(ADMIN_PATHS if resets else ())))
    patches.drop_request_session(app)
    if options.page:
        add_page_routes(app)
    add_metrics_routes(app)
    app.add_middleware(RequestHeadMiddleware, form_of=error_form)
    app.add_middleware(
        SharedMemoryMiddleware,
        memory=shared_memory(options) if memory is None else memory,
        client_of=client_of,
    )
    if shutdown is not None:
        app.add_middleware(ShutdownMiddleware, shutdown=shutdown, form_of=error_form)
    app.add_middleware(AccessMiddleware, policy=policy, form_of=error_form)
    if policy.origins:
        # Around the others, so that a page can read why its request was refused.
        app.add_middleware(CorsMiddleware, origins=policy.origins, form_of=error_form)
    app.add_middleware(
        RequestMiddleware,
        form_of=error_form,
        dialect_of=dialect,
        logs_requests=options.logs_requests,
    )
    add_error_handlers(app, error_form)
    return app


def add_routes(
    app: FastAPI,
    engine: EngineClient,
    capabilities: ServerCapabilities,
    fetcher: ImageFetcher,
    readiness: Readiness = ALWAYS_READY,
    batches: BatchService | None = None,
) -> None:
    """Adds this server's routes to an application.

    Args:
        app: The application.
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
        readiness: Whether requests can be answered.
        batches: Keeps and runs batches; None if the server has none.
    """
    METRICS.model.labels(capabilities.model_name).set(1)
    for name, paths in ANSWERING.items():
        for path in paths:
            METRICS.expect_requests(name, path)
    engine = ObservedEngineClient(engine)
    # Before OpenAI's, which have the same paths.
    anthropic_models = anthropic.anthropic_models_router(capabilities)
    app.include_router(anthropic_models)
    app.include_router(openai.openai_router(engine, capabilities, fetcher))
    app.include_router(anthropic.anthropic_router(engine, capabilities, fetcher))
    app.include_router(ollama.ollama_router(engine, capabilities, fetcher))
    add_health_routes(app, readiness)
    if batches is not None:
        app.include_router(batches.router)
    add_schema_route(
        app,
        (
            *openai.BODIES,
            *anthropic.BODIES,
            *ollama.BODIES,
            *(() if batches is None else service.BODIES),
        ),
        (*openai.EVENTS, *anthropic.EVENTS),
        error_form,
        beside=anthropic_models.routes,
    )
