"""Runs MAX Serve's application with this model, as ``max serve`` does."""

from __future__ import annotations

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

from mllama.errors import MllamaError
from mllama.images.preparation import start_worker_processes
from mllama.max_compat import patches
from mllama.max_compat.server import (
    METRICS,
    ServingTokenGeneratorSettings,
    Settings,
    log_basic_config,
    log_pipeline_info,
)
from mllama.max_compat.tracing import start_tracing
from mllama.max_compat.worker import (
    remove_endpoints,
    reset_prefix_cache,
    start_telemetry_consumer,
)
from mllama.max_model.memory_planner import plan_within_memory_limit
from mllama.max_model.settings import ModelSettings
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.tool_calls.parser import ToolForm
from mllama.runtime.pipeline import load_pipeline
from mllama.server.batches.service import BatchService
from mllama.server.batches.stores import BatchStores
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
from mllama.server.shutdown import Shutdown
from mllama.server.supervisor.restart_options import RestartOptions
from mllama.server.supervisor.supervisor import WorkerStartError, WorkerSupervisor
from mllama.server.supervisor.worker_board import WorkerBoard, WorkKind
from mllama.server.supervisor.worker_process import WorkerPlan
from mllama.utils.allocator import limit_allocator
from mllama.utils.child_processes import end_with_parent
from mllama.utils.open_files import raise_open_file_limit
from mllama.utils.progress import StartupProgress, stage
from mllama.utils.telemetry import are_traces_configured

logger = logging.getLogger("mllama")


@dataclass(frozen=True)
class WorkerPipelineFactory:
    """Builds the pipeline in the worker process and reports the progress.

    Attributes:
        factory: MAX's factory of the pipeline.
        stats: File that shares statistics and verdict, see ``SharedStats``.
        log_style: How the worker's log looks.
        settings: MAX Serve's settings.
        max_ce_batch_size: Maximum number of requests that one step prefills.
        board: The file in which the worker announces what it does.
    """

    factory: Callable[[], Any]
    stats: Path
    log_style: LogStyle
    settings: Settings
    max_ce_batch_size: int
    board: WorkerBoard

    def __call__(self) -> Any:
        """Builds the pipeline.

        Raises:
            SystemExit: If it can't be served; the reason is in the log, in one line.
        """
        # A server that is killed must not leave the worker with the model running.
        end_with_parent(signal.SIGKILL)
        # A terminal or a service manager may send these to all of a server's processes,
        # but requests that run need their worker.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.log_style.apply()
        self.log_style.apply_to_stderr()
        if are_traces_configured():
            start_tracing(self.settings)
        self.board.announce(WorkKind.LOADING)
        self.board.start_beating()
        with StartupProgress():
            stage("loading the model")
            shared = SharedStats(self.stats)
            shared.start_worker()
            try:
                loaded = load_pipeline(
                    self.factory,
                    self.max_ce_batch_size,
                    publish=shared.write,
                    announce=self.board.announcing,
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
    restarts: RestartOptions | None = None,
) -> None:
    """Runs the server until SIGTERM or Ctrl-C, and then until it is drained.

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
        restarts: How workers that die are replaced.

    Raises:
        MllamaError: If the model can't be served with these settings.
        SystemExit: If the first worker died before it took requests, or too many
            others; or on SIGTERM before the server is up, and when it comes again.
        KeyboardInterrupt: The same for Ctrl-C.
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
    with (
        SharedStats.temporary() as stats,
        worker_metrics(stats),
        WorkerBoard.temporary() as board,
    ):
        retrieved.tokenizer.image_limits.set_gpu_verdict(stats.read_verdict)
        factory = WorkerPipelineFactory(
            factory=retrieved.factory,
            stats=stats.path,
            log_style=options.log_style,
            settings=settings,
            max_ce_batch_size=max_ce_batch_size,
            board=board,
        )
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
        engine_settings = EngineSettings.of(
            config,
            retrieved.tokenizer,
            top_k=config.runtime.top_k,
            max_new_tokens=-1 if max_new_tokens is None else max_new_tokens,
            tool_parser=tool_parser,
        )
        _run(
            settings,
            serving,
            engine_settings,
            options,
            overload,
            sockets,
            metrics_sockets,
            description,
            stats,
            board,
            restarts or RestartOptions(),
            with_torch=bool(config.model.trust_remote_code),
        )


def _run(
    settings: Settings,
    serving: ServingTokenGeneratorSettings,
    engine_settings: EngineSettings,
    options: ServerOptions,
    overload: OverloadOptions,
    sockets: Sequence[socket.socket],
    metrics_sockets: Sequence[socket.socket],
    description: ModelDescription,
    stats: SharedStats,
    board: WorkerBoard,
    restarts: RestartOptions,
    *,
    with_torch: bool,
) -> None:
    """Builds MAX's application and runs it; see :func:`serve`."""
    limit_allocator()
    raise_open_file_limit()
    start_worker_processes()
    patches.replace_prefix_cache_reset(reset_prefix_cache)
    config, tokenizer = serving.pipeline_config, serving.tokenizer
    shutdown = Shutdown(overload.shutdown_timeout)
    app = new_application(
        settings, serving, options, shutdown, max_waiting=overload.max_queue_size
    )
    server = HttpServer(
        uvicorn_config(
            app,
            settings,
            root_path=options.root_path,
            tls=options.tls,
            uds=options.uds,
        ),
        shutdown,
    )
    has_given_up = False

    def give_up() -> None:
        nonlocal has_given_up
        has_given_up = True
        server.shut_down()

    stores = None if options.batches is None else BatchStores(options.batches)

    async def run() -> None:
        async with start_telemetry_consumer(settings) as metric_client:
            METRICS.configure(client=metric_client)
            supervisor = WorkerSupervisor(
                WorkerPlan(
                    factory=serving.model_factory,
                    config=config,
                    settings=settings,
                    metric_client=metric_client,
                    endpoint=app.state.zmq_endpoint_base,
                    memory_plan=serving.memory_plan,
                ),
                board,
                ended=stats.worker_ended,
                gave_up=give_up,
                options=restarts,
                with_torch=with_torch,
            )
            async with supervisor:
                METRICS.pipeline_load(config.models.model_name)
                engine = MaxEngineClient(
                    supervisor,
                    tokenizer,
                    engine_settings,
                    min_piece_tokens=settings.stream_min_chunk_tokens,
                )
                capabilities = server_capabilities(
                    engine_settings, settings, config, tokenizer, description
                )
                queue = new_queue(serving.memory_plan.planned_max_batch_size, overload)
                queued = QueuedEngineClient(engine, queue)
                shutdown.drain_engine(queued)
                fetcher = ImageFetcher(settings)
                service = (
                    None
                    if stores is None
                    else BatchService(stores, queued, queue, capabilities, fetcher)
                )
                add_routes(app, queued, capabilities, fetcher, supervisor, service)
                _freeze_heap()
                async with (
                    metrics_served(metrics_sockets, options.policy(), error_form),
                    service.worker.running() if service else contextlib.nullcontext(),
                ):
                    await server.serve(list(sockets))

    # As in MAX: without these, signals would orphan the worker or cut streams off.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unpatch_uvicorn_signal_handler()  # type: ignore[no-untyped-call]
    try:
        uvloop.run(run())
    except WorkerStartError as error:
        logger.error("the model worker has died: it %s; its messages are above", error)
        raise SystemExit(1) from None
    finally:
        remove_endpoints(app.state.zmq_endpoint_base)
    if has_given_up:
        raise SystemExit(1)


def _freeze_heap() -> None:
    """Keeps what exists after the startup out of garbage collections.

    A full collection would visit hundreds of thousands of objects of imported modules
    and hold the event loop meanwhile.  MAX does the same in its worker.
    """
    gc.collect()
    gc.freeze()


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


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
