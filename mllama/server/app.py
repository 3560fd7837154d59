"""Runs MAX Serve's application with this model, as ``max serve`` does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineArgs, PipelineConfig
from max.pipelines.modeling.types import PipelineTask
from sse_starlette.sse import unpatch_uvicorn_signal_handler
from uvicorn import Server

from mllama.errors import MllamaError
from mllama.images.preparation import start_worker_processes
from mllama.max_compat import patches
from mllama.max_compat.server import (
    ServingTokenGeneratorSettings,
    Settings,
    SubprocessExit,
    lifespan,
    log_basic_config,
    log_pipeline_info,
)
from mllama.max_model.memory_planner import plan_within_memory_limit
from mllama.max_model.settings import ModelSettings
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.tool_calls.parser import ToolForm
from mllama.runtime.pipeline import load_pipeline
from mllama.server.capabilities import ServerCapabilities
from mllama.server.http_server import HttpServer, uvicorn_config
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.max_engine_client import MaxEngineClient
from mllama.server.metrics_page import metrics_served, worker_metrics
from mllama.server.model_description import ModelDescription
from mllama.server.observability.log_format import LogStyle
from mllama.server.observability.shared_stats import SharedStats
from mllama.server.options import ServerOptions
from mllama.server.routes import add_routes, error_form, new_application
from mllama.server.scheduling.options import OverloadOptions
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import new_queue
from mllama.server.worker_prespawn import PrespawnedPopen
from mllama.utils.child_processes import end_with_parent
from mllama.utils.progress import StartupProgress, stage

logger = logging.getLogger("mllama")

_FAREWELL_SECONDS = 5
"""How long a server whose worker has died waits for clients to read the error."""


@dataclass(frozen=True)
class WorkerPipelineFactory:
    """Builds the pipeline in the worker process and reports the progress.

    Attributes:
        factory: MAX's factory of the pipeline.
        stats: File that shares statistics and verdict, see ``SharedStats``.
        log_style: How the worker's log looks.
        max_ce_batch_size: Maximum number of requests that one step prefills.
    """

    factory: Callable[[], Any]
    stats: Path
    log_style: LogStyle
    max_ce_batch_size: int

    def __call__(self) -> Any:
        """Builds the pipeline.

        Raises:
            SystemExit: If it can't be served; the reason is in the log, in one line.
        """
        # A server that is killed must not leave the worker with the model running.
        end_with_parent(signal.SIGTERM)
        self.log_style.apply()
        self.log_style.apply_to_stderr()
        with StartupProgress():
            stage("loading the model")
            shared = SharedStats(self.stats)
            shared.start_worker()
            try:
                loaded = load_pipeline(
                    self.factory, self.max_ce_batch_size, publish=shared.write
                )
            except MllamaError as error:
                logger.error("%s", error)
                raise SystemExit(1) from None
            if loaded.gpu_verdict is not None:
                shared.write_verdict(loaded.gpu_verdict)
        return loaded.pipeline


def serve(
    settings: Settings,
    args: PipelineArgs,
    *,
    description: ModelDescription,
    options: ServerOptions,
    overload: OverloadOptions,
    sockets: Sequence[socket.socket],
    metrics_sockets: Sequence[socket.socket] = (),
    max_ce_batch_size: int,
    max_new_tokens: int | None = None,
    tool_parser: ToolForm = "auto",
) -> None:
    """Runs the server until it is interrupted.

    Args:
        settings: Settings of the server.
        args: Settings of the model; ``custom_architectures`` must name this package.
        description: The model, for clients that list it.
        options: How the server can be reached, and by whom.
        overload: What it does when there is more to do than it can.
        sockets: What it listens on, bound.
        metrics_sockets: What ``/metrics`` has for itself, bound.
        max_ce_batch_size: Maximum number of requests that one step prefills.
        max_new_tokens: Maximum length of an answer to a request that sets no limit, in
            tokens; None allows answers up to the maximum length of a sequence.
        tool_parser: The form in which the model calls tools.

    Raises:
        MllamaError: If the model can't be served with these settings.
        SystemExit: If the worker died, or on SIGTERM.
        KeyboardInterrupt: On Ctrl-C, after the server has shut down.
    """
    try:
        config = PipelineConfig.from_args(
            args.model_copy(update={"task": PipelineTask.TEXT_GENERATION})
        )
        plan_within_memory_limit()
        retrieved = PIPELINE_REGISTRY.retrieve_factory(
            config, task=PipelineTask.TEXT_GENERATION
        )
    except MllamaError:
        raise
    except ValueError as error:
        raise MllamaError(str(error)) from error
    log_basic_config(config, memory_plan=retrieved.memory_plan)
    log_pipeline_info(config, memory_plan=retrieved.memory_plan)
    if not (options.is_local or options.api_keys):
        logger.warning(
            "whoever can reach %s may use this server: set --api-key", options.host
        )
    with SharedStats.temporary() as stats, worker_metrics(stats):
        retrieved.tokenizer.image_limits.set_gpu_verdict(stats.read_verdict)
        factory = WorkerPipelineFactory(
            retrieved.factory, stats.path, options.log_style, max_ce_batch_size
        )
        _run(
            settings,
            config,
            retrieved,
            factory,
            options,
            overload,
            sockets,
            metrics_sockets,
            description,
            max_new_tokens,
            tool_parser,
        )


def _run(
    settings: Settings,
    config: PipelineConfig,
    retrieved: Any,
    factory: WorkerPipelineFactory,
    options: ServerOptions,
    overload: OverloadOptions,
    sockets: Sequence[socket.socket],
    metrics_sockets: Sequence[socket.socket],
    description: ModelDescription,
    max_new_tokens: int | None,
    tool_parser: ToolForm,
) -> None:
    """Builds MAX's application and runs it; see :func:`serve`."""
    serving = ServingTokenGeneratorSettings(
        model_factory=factory,
        pipeline_config=config,
        tokenizer=retrieved.tokenizer,
        task=PipelineTask.TEXT_GENERATION,
        reasoning_parser_name=config.runtime.reasoning_parser,
        temperature=config.runtime.temperature,
        thinking_temperature=config.runtime.thinking_temperature,
        memory_plan=retrieved.memory_plan,
    )
    start_worker_processes()
    # The worker runs in the process that has imported MAX since the command started.
    patches.replace_worker_process(PrespawnedPopen)
    app = new_application(settings, serving, options)
    server = HttpServer(
        uvicorn_config(app, settings, root_path=options.root_path, tls=options.tls)
    )

    async def run() -> None:
        async with lifespan(app, settings, serving, app.state.zmq_endpoint_base):
            engine = MaxEngineClient(
                app.state.pipeline.model_worker,
                retrieved.tokenizer,
                EngineSettings.of(
                    config,
                    retrieved.tokenizer,
                    top_k=config.runtime.top_k,
                    max_new_tokens=-1 if max_new_tokens is None else max_new_tokens,
                    tool_parser=tool_parser,
                ),
                min_piece_tokens=settings.stream_min_chunk_tokens,
            )
            capabilities = server_capabilities(
                engine.settings, settings, config, retrieved.tokenizer, description
            )
            queue = new_queue(retrieved.memory_plan.planned_max_batch_size, overload)
            add_routes(
                app,
                QueuedEngineClient(engine, queue),
                capabilities,
                ImageFetcher(settings),
            )
            _freeze_heap()
            try:
                async with metrics_served(
                    metrics_sockets, options.policy(), error_form
                ):
                    await server.serve(list(sockets))
            except asyncio.CancelledError:
                # MAX cancels this task when the worker has died.
                await _end_requests(server, engine)
                raise

    # As in MAX: without these, signals would orphan the worker or cut streams off.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unpatch_uvicorn_signal_handler()  # type: ignore[no-untyped-call]
    try:
        uvloop.run(run())
    except (SubprocessExit, RuntimeError) as error:
        if not _caused_by_worker(error):
            raise
        logger.error("the model worker has died (%s); its messages are above", error)
        raise SystemExit(1) from None


def _freeze_heap() -> None:
    """Keeps what exists after the startup out of garbage collections.

    A full collection would visit hundreds of thousands of objects of imported modules
    and hold the event loop meanwhile.  MAX does the same in its worker.
    """
    gc.collect()
    gc.freeze()


async def _end_requests(server: Server, engine: MaxEngineClient) -> None:
    """Ends running requests with an error, and waits until clients have it."""
    engine.fail("the model's process has died")
    if server.started:
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(server.shutdown(), _FAREWELL_SECONDS)


def server_capabilities(
    engine: EngineSettings,
    settings: Settings,
    config: PipelineConfig,
    tokenizer: Any,
    description: ModelDescription,
) -> ServerCapabilities:
    """Returns the capabilities of a server that is about to run.

    Args:
        engine: The engine's limits and defaults.
        settings: Settings of the server.
        config: MAX's configuration of the pipeline.
        tokenizer: The model's tokenizer.
        description: The model's files and configuration.
    """
    return ServerCapabilities.of(
        engine,
        tokenizer,
        model_name=config.models.model_name,
        max_images=ModelSettings.from_max(config.model).image_limit,
        max_image_bytes=settings.max_media_bytes or None,
        description=description,
    )


def _caused_by_worker(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, SubprocessExit):
            return True
        error = error.__cause__
    return False


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
