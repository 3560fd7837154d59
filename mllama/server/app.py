"""Runs MAX Serve's application with this model, as ``max serve`` does."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineArgs, PipelineConfig
from max.pipelines.modeling.types import PipelineTask
from prometheus_client import REGISTRY
from sse_starlette.sse import unpatch_uvicorn_signal_handler
from starlette.middleware import Middleware
from uvicorn import Server

from mllama.errors import MllamaError
from mllama.images.preparation import start_worker_processes
from mllama.max_compat import patches
from mllama.max_compat.server import (
    ServingTokenGeneratorSettings,
    Settings,
    SubprocessExit,
    fastapi_app,
    fastapi_config,
    lifespan,
    log_basic_config,
    log_pipeline_info,
    validate_port_is_free,
)
from mllama.runtime.pipeline import load_pipeline
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.inline_images import InlineImages, headers_only
from mllama.server.metrics import SharedStats
from mllama.server.middleware import RequestValidationMiddleware, explain_value_errors
from mllama.server.request_validation import ServerCapabilities
from mllama.server.usage import UsagePipeline
from mllama.server.worker_prespawn import PrespawnedPopen
from mllama.utils.child_processes import end_with_parent
from mllama.utils.progress import StartupProgress, stage

logger = logging.getLogger("mllama")

MAX_TOP_LOGPROBS = 20
"""Likeliest tokens whose log probabilities a request may ask for on a CPU, as in
OpenAI's API."""


@dataclass(frozen=True)
class WorkerPipelineFactory:
    """Builds the pipeline in the worker process and reports the progress.

    Attributes:
        factory: MAX's factory of the pipeline.
        stats: File that shares statistics and verdict, see ``SharedStats``.
        max_ce_batch_size: Maximum number of requests that one step prefills.
    """

    factory: Callable[[], Any]
    stats: Path
    max_ce_batch_size: int

    def __call__(self) -> Any:
        """Builds the pipeline.

        Raises:
            SystemExit: If it can't be served; the reason is in the log, in one line.
        """
        # A server that is killed must not leave the worker with the model running.
        end_with_parent(signal.SIGTERM)
        with StartupProgress():
            stage("loading the model")
            shared = SharedStats(self.stats)
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
    max_ce_batch_size: int,
    max_new_tokens: int | None = None,
) -> None:
    """Runs the server until it is interrupted.

    Args:
        settings: Settings of the server.
        args: Settings of the model; ``custom_architectures`` must name this package.
        max_ce_batch_size: Maximum number of requests that one step prefills.
        max_new_tokens: Maximum length of an answer to a request that sets no limit, in
            tokens; None allows answers up to the maximum length of a sequence.

    Raises:
        MllamaError: If the port is in use or the model can't be served with these
            settings.
        SystemExit: If the worker died, or on SIGTERM.
        KeyboardInterrupt: On Ctrl-C, after the server has shut down.
    """
    try:
        validate_port_is_free(settings.port)
        config = PipelineConfig.from_args(
            args.model_copy(update={"task": PipelineTask.TEXT_GENERATION})
        )
        retrieved = PIPELINE_REGISTRY.retrieve_factory(
            config, task=PipelineTask.TEXT_GENERATION
        )
    except MllamaError:
        raise
    except ValueError as error:
        raise MllamaError(str(error)) from error
    log_basic_config(config, memory_plan=retrieved.memory_plan)
    log_pipeline_info(config, memory_plan=retrieved.memory_plan)
    with SharedStats.temporary() as stats:
        REGISTRY.register(stats)
        retrieved.tokenizer.image_limits.set_gpu_verdict(stats.read_verdict)
        factory = WorkerPipelineFactory(
            retrieved.factory, stats.path, max_ce_batch_size
        )
        _run(settings, config, retrieved, factory, max_new_tokens)


def _run(
    settings: Settings,
    config: PipelineConfig,
    retrieved: Any,
    factory: WorkerPipelineFactory,
    max_new_tokens: int | None,
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
    if is_for_cpu(config):
        patches.replace_log_probability_limit(MAX_TOP_LOGPROBS)
    app = fastapi_app(settings, serving)
    explain_value_errors(app)
    image_tokens: dict[str, int] = {}
    inline_images = InlineImages()
    fetcher = ImageFetcher(settings)
    patches.replace_image_resolution(inline_images.resolve_with(fetcher))
    patches.replace_image_admission(headers_only)
    # The last middleware is the innermost: MAX's, with its limit on bodies, run first.
    app.user_middleware.append(
        Middleware(
            RequestValidationMiddleware,
            capabilities=lambda: server_capabilities(
                app.state, retrieved.tokenizer, max_new_tokens
            ),
            image_tokens=image_tokens,
            inline_images=inline_images,
        )
    )
    server = Server(fastapi_config(app=app, server_settings=settings))

    async def run() -> None:
        async with lifespan(app, settings, serving, app.state.zmq_endpoint_base):
            patches.replace_serving_pipeline(
                app, UsagePipeline(app.state.pipeline, image_tokens)
            )
            _freeze_heap()
            await server.serve()

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


def server_capabilities(
    state: Any, tokenizer: Any, max_new_tokens: int | None = None
) -> ServerCapabilities:
    """Returns the capabilities of the running server.

    Args:
        state: The state of MAX's application.
        tokenizer: The model's tokenizer.
        max_new_tokens: Maximum length of an answer to a request that sets no limit.
    """
    config = state.pipeline_config
    on_host = samples_on_host(config)
    return ServerCapabilities(
        model_name=state.pipeline.model_name,
        vocabulary=len(tokenizer.delegate),
        penalties=on_host or config.sampling.enable_penalties,
        min_tokens=on_host or config.sampling.enable_min_tokens,
        tool_parser=config.runtime.tool_parser is not None,
        reasoning_parser=config.runtime.reasoning_parser is not None,
        greedy=config.runtime.top_k == 1,
        local_images=bool(state.settings.allowed_image_roots),
        max_new_tokens=max_new_tokens,
    )


def samples_on_host(config: PipelineConfig) -> bool:
    """Returns True if tokens are chosen by this package's sampler, not by MAX's."""
    return config.sampling.sample_on_host or is_for_cpu(config)


def is_for_cpu(config: PipelineConfig) -> bool:
    """Returns True if the model runs on a CPU."""
    return all(spec.device_type == "cpu" for spec in config.model.device_specs)


def _caused_by_worker(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, SubprocessExit):
            return True
        error = error.__cause__
    return False


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
