"""Runs MAX Serve's application with this model, as ``max serve`` does."""

from __future__ import annotations

import contextlib
import logging
import signal
from types import FrameType
from typing import Any

import uvloop
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineArgs, PipelineConfig
from max.pipelines.modeling.types import PipelineTask
from sse_starlette.sse import unpatch_uvicorn_signal_handler

from mllama.errors import MllamaError
from mllama.images.preparation import end_worker_processes, start_worker_processes
from mllama.max_compat import patches
from mllama.max_compat.server import (
    METRICS,
    ServingTokenGeneratorSettings,
    Settings,
    log_basic_config,
    log_pipeline_info,
)
from mllama.max_compat.worker import (
    remove_endpoints,
    reset_prefix_cache,
    start_telemetry_consumer,
)
from mllama.max_model.memory_planner import plan_within_memory_limit
from mllama.max_model.settings import ModelSettings
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.tool_calls.parser import ToolForm
from mllama.server.attention_client import AttentionClient, map_directory
from mllama.server.batches.service import BatchService
from mllama.server.batches.stores import BatchStores
from mllama.server.capabilities import ServerCapabilities
from mllama.server.http_server import HttpServer, uvicorn_config
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.max_engine_client import MaxEngineClient
from mllama.server.metrics_page import metrics_served, worker_metrics
from mllama.server.model_description import ModelDescription
from mllama.server.observability.shared_stats import SharedStats
from mllama.server.options import BoundSockets, ServerOptions
from mllama.server.routes import add_routes, error_form, new_application, shared_memory
from mllama.server.scheduler_limits import check_scheduler
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import new_queue
from mllama.server.shutdown import Shutdown
from mllama.server.supervisor.supervisor import WorkerStartError, WorkerSupervisor
from mllama.server.supervisor.worker_board import WorkerBoard
from mllama.server.supervisor.worker_process import WorkerPlan
from mllama.server.worker_pipeline import WorkerPipelineFactory
from mllama.utils.allocator import limit_allocator
from mllama.utils.garbage import freeze_heap
from mllama.utils.open_files import raise_open_file_limit

logger = logging.getLogger("mllama")


def serve(
    settings: Settings,
    args: PipelineArgs,
    *,
    description: ModelDescription,
    options: ServerOptions,
    sockets: BoundSockets,
    max_ce_batch_size: int,
    max_new_tokens: int | None = None,
    tool_parser: ToolForm = "auto",
) -> None:
    """Runs the server until SIGTERM or Ctrl-C, and then until it is drained.

    Args:
        settings: Settings of the server.
        args: Settings of the model; ``custom_architectures`` must name this package.
        description: The model, for clients that list it.
        options: The server's options.
        sockets: What it listens on.
        max_ce_batch_size: Maximum number of requests that one step prefills.
        max_new_tokens: Maximum length of an answer to a request that sets no limit, in
            tokens; None allows answers up to the maximum length of a sequence.
        tool_parser: The form in which the model calls tools.

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
        check_scheduler(config, retrieved.memory_plan)
    except MllamaError:
        raise
    except ValueError as error:
        raise MllamaError(str(error)) from error
    log_basic_config(config, memory_plan=retrieved.memory_plan)
    log_pipeline_info(config, memory_plan=retrieved.memory_plan)
    options.log_warnings()
    with (
        SharedStats.temporary() as stats,
        worker_metrics(stats),
        WorkerBoard.temporary() as board,
        map_directory(options.attention) as attention_directory,
    ):
        retrieved.tokenizer.image_limits.set_gpu_verdict(stats.read_verdict)
        factory = WorkerPipelineFactory(
            factory=retrieved.factory,
            stats=stats.path,
            settings=settings,
            max_ce_batch_size=max_ce_batch_size,
            board=board,
            attention_directory=attention_directory,
        )
        _RunningServer(
            settings=settings,
            serving=ServingTokenGeneratorSettings(
                model_factory=factory,
                pipeline_config=config,
                tokenizer=retrieved.tokenizer,
                task=PipelineTask.TEXT_GENERATION,
                reasoning_parser_name=config.runtime.reasoning_parser,
                temperature=config.runtime.temperature,
                thinking_temperature=config.runtime.thinking_temperature,
                memory_plan=retrieved.memory_plan,
            ),
            engine_settings=EngineSettings.of(
                config,
                retrieved.tokenizer,
                top_k=config.runtime.top_k,
                max_new_tokens=-1 if max_new_tokens is None else max_new_tokens,
                tool_parser=tool_parser,
            ),
            description=description,
            options=options,
            sockets=sockets,
            stats=stats,
            board=board,
            attention=None
            if attention_directory is None
            else AttentionClient(attention_directory, retrieved.tokenizer),
        ).run()


class _RunningServer:
    """MAX's application, with its worker and all that is around them.

    Args:
        settings: Settings of the server.
        serving: MAX's settings of the model.
        engine_settings: The engine's limits and defaults.
        description: The model, for clients that list it.
        options: The server's options.
        sockets: What it listens on.
        stats: The file with the worker's figures.
        board: The file in which the worker announces what it does.
        attention: Asks for attention maps; None refuses requests for them.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        serving: ServingTokenGeneratorSettings,
        engine_settings: EngineSettings,
        description: ModelDescription,
        options: ServerOptions,
        sockets: BoundSockets,
        stats: SharedStats,
        board: WorkerBoard,
        attention: AttentionClient | None,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._engine_settings = engine_settings
        self._description = description
        self._options = options
        self._sockets = sockets
        self._stats = stats
        self._board = board
        self._attention = attention
        self._has_given_up = False
        self._engine: MaxEngineClient | None = None
        batches = options.batches
        self._batch_stores = None if batches is None else BatchStores(batches)
        self._shutdown = Shutdown(options.overload.shutdown_timeout)
        self._memory = shared_memory(options)
        self._app = new_application(
            settings, serving, options, self._shutdown, self._memory
        )
        self._server = HttpServer(
            uvicorn_config(
                self._app,
                settings,
                form_of=error_form,
                root_path=options.root_path,
                tls=options.tls,
                uds=options.uds,
            ),
            self._shutdown,
        )

    def run(self) -> None:
        """Runs until the server has shut down; see :func:`serve`."""
        prepare_server_process()
        start_worker_processes(self._options.log_style.apply_to_stderr)
        patches.replace_prefix_cache_reset(reset_prefix_cache)
        try:
            uvloop.run(self._run())
        except WorkerStartError as error:
            logger.error(
                "the model worker has died: it %s; its messages are above", error
            )
            raise SystemExit(1) from None
        finally:
            end_worker_processes()
            if self._engine is not None:
                self._engine.close()
            remove_endpoints(self._app.state.zmq_endpoint_base)
            if self._batch_stores is not None:
                self._batch_stores.close()
        if self._has_given_up:
            raise SystemExit(1)

    async def _run(self) -> None:
        async with start_telemetry_consumer(self._settings) as metric_client:
            METRICS.configure(client=metric_client)
            async with self._supervisor(metric_client) as supervisor:
                METRICS.pipeline_load(self._serving.pipeline_config.models.model_name)
                service = self._add_routes(supervisor)
                freeze_heap()
                async with (
                    metrics_served(
                        self._sockets.metrics, self._options.policy(), error_form
                    ),
                    service.worker.running() if service else contextlib.nullcontext(),
                ):
                    await self._server.serve(list(self._sockets.requests))

    def _supervisor(self, metric_client: Any) -> WorkerSupervisor:
        config = self._serving.pipeline_config
        return WorkerSupervisor(
            WorkerPlan(
                factory=self._serving.model_factory,
                config=config,
                settings=self._settings,
                log_style=self._options.log_style,
                metric_client=metric_client,
                endpoint=self._app.state.zmq_endpoint_base,
                memory_plan=self._serving.memory_plan,
            ),
            self._board,
            ended=self._stats.worker_ended,
            gave_up=self._give_up,
            options=self._options.restarts,
            with_torch=bool(config.model.trust_remote_code),
        )

    def _add_routes(self, supervisor: WorkerSupervisor) -> BatchService | None:
        """Adds the routes, and returns what answers batches, if anything does."""
        serving = self._serving
        engine = self._engine = MaxEngineClient(
            supervisor,
            serving.tokenizer,
            self._engine_settings,
            min_piece_tokens=self._settings.stream_min_chunk_tokens,
            attention=self._attention,
        )
        queue = new_queue(
            serving.memory_plan.planned_max_batch_size, self._options.overload
        )
        queued = QueuedEngineClient(engine, queue)
        self._shutdown.drain_engine(queued)
        capabilities = server_capabilities(
            self._engine_settings,
            self._settings,
            serving.pipeline_config,
            serving.tokenizer,
            self._description,
            attention=self._options.attention,
        )
        fetcher = ImageFetcher(self._settings)
        stores = self._batch_stores
        service = (
            None
            if stores is None
            else BatchService(
                stores, queued, queue, capabilities, fetcher, self._memory
            )
        )
        add_routes(self._app, queued, capabilities, fetcher, supervisor, service)
        return service

    def _give_up(self) -> None:
        self._has_given_up = True
        self._server.shut_down()


def prepare_server_process() -> None:
    """Sets limits and signals of a process that is about to serve HTTP."""
    limit_allocator()
    raise_open_file_limit()
    # As in MAX: without these, signals would orphan the worker or cut streams off.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unpatch_uvicorn_signal_handler()  # type: ignore[no-untyped-call]


def server_capabilities(
    engine: EngineSettings,
    settings: Settings,
    config: PipelineConfig,
    tokenizer: Any,
    description: ModelDescription,
    *,
    attention: bool = False,
) -> ServerCapabilities:
    """Returns the capabilities of a server that is about to run.

    Args:
        engine: The engine's limits and defaults.
        settings: Settings of the server.
        config: MAX's configuration of the pipeline.
        tokenizer: The model's tokenizer.
        description: The model's files and configuration.
        attention: Whether answers may come with attention maps.
    """
    return ServerCapabilities.of(
        engine,
        tokenizer,
        model_name=config.models.model_name,
        max_images=ModelSettings.from_max(config.model).image_limit,
        max_image_bytes=settings.max_media_bytes or None,
        description=description,
        attention=attention,
    )


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
