"""MAX's pipeline and scheduler in a thread of this process.

MAX's own server runs them in a second process.  Here they share the caller's process:
scripts need no ``if __name__ == "__main__"``, everything is imported once, and tokens
cross no socket.  MAX's scheduler still batches requests continuously; plain
queues feed it.  Compiling and executing release Python's lock, so the caller's thread
stays responsive.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mllama.engine.attention.service import AttentionService
from mllama.engine.generation import Generation, now
from mllama.engine.running import RunningAnswers, StepQueue
from mllama.engine.serving import ServingOptions
from mllama.errors import MllamaError
from mllama.image_cache.stats import ImageCacheStats
from mllama.image_cache.verdict import ImageVerdict
from mllama.launch.options import EngineOptions
from mllama.max_compat import patches
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.request import GenerationRequest
from mllama.runtime.engine_stats import EngineStats
from mllama.utils.child_processes import restore_child_environment
from mllama.utils.cpu_affinity import start_max_threads
from mllama.utils.progress import StartupProgress, stage

if TYPE_CHECKING:
    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles
    from mllama.launch.model_files import ModelFiles
    from mllama.requests.attention import AttentionMaps
    from mllama.requests.preparation import PreparedRequest

_IDLE_SECONDS = 0.05
"""Pause while all requests wait for room; a new request ends it."""


class Engine:
    """A loaded model that processes many requests concurrently.

    Attributes:
        max_batch_size: Requests processed concurrently, at most.

    Args:
        options: Options for running the model.
        quiet: Whether to hide the progress of loading.
        serving: What it does for the requests of a server; None if it serves none.

    Raises:
        MllamaError: If the options or the checkpoint can't be served.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        quiet: bool = False,
        serving: ServingOptions | None = None,
    ) -> None:
        start_max_threads(options.num_threads)
        self._files = options.resolve(quiet=quiet)
        # MAX's compiler must be imported by the thread that lives longest.
        importlib.import_module("max.graph")
        self._options = options
        self._quiet = quiet
        self._serving = serving
        self._stats = EngineStats()
        self._gpu_verdict = ImageVerdict()
        self._resets_prefix_cache = threading.Event()
        self._running = RunningAnswers()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._tokenizer: Any = None
        self.max_batch_size = 1
        self._settings: Any = None
        self._grammars: Any = None
        self._image_cache: Any = None
        self._attention = AttentionService(self, self._running.wake.set, quiet=quiet)
        self._loop = asyncio.new_event_loop()
        self._threads = [
            threading.Thread(target=self._run, name="mllama-engine", daemon=True),
            threading.Thread(
                target=self._loop.run_forever, name="mllama-requests", daemon=True
            ),
        ]
        for thread in self._threads:
            thread.start()
        try:
            self._ready.wait()
        except BaseException:
            # An interrupt can't stop a compilation, so its thread ends by itself.
            self._closing.set()
            raise
        if self._failure is not None:
            failure = self._failure
            self.close()
            if isinstance(failure, MllamaError):
                raise failure
            if isinstance(failure, ValueError):
                raise MllamaError(_one_line(failure)) from failure
            raise failure

    def image_cache_stats(self) -> ImageCacheStats:
        """Returns a snapshot of the image cache.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self.check_alive()
        stats: ImageCacheStats = self._image_cache.stats()
        return stats

    def stats(self) -> EngineStats:
        """Returns the latest figures of an engine that serves requests.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self.check_alive()
        return self._stats

    @property
    def gpu_verdict(self) -> ImageVerdict:
        """Returns the result of a GPU's self-check."""
        return self._gpu_verdict

    def reset_prefix_cache(self) -> None:
        """Has the prefix cache emptied before the next step, without waiting for it.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self.check_alive()
        self._resets_prefix_cache.set()
        self._running.wake.set()

    @property
    def files(self) -> ModelFiles:
        """Returns the model's files, quantized if they need to be."""
        return self._files

    @property
    def continues_messages(self) -> bool:
        """Returns True if an answer can go on with a conversation's last message.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self.check_alive()
        continues: bool = self._tokenizer.prompt_encoder.continues_messages
        return continues

    def prepare_image(self, file: ImageFile | bytes) -> Future[ImageTiles]:
        """Starts to split an image file, or its content, into tiles.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self.check_alive()
        tiles: Future[ImageTiles] = self._tokenizer.prepare_image(file)
        return tiles

    def check_attention(self, prepared: PreparedRequest) -> None:
        """Checks before an answer that its attention maps can be computed.

        Raises:
            RequestError: If they can't, or could be too large.
            RuntimeError: If the engine is closed or has failed.
        """
        self._attention.check(prepared)

    def attention_maps(
        self, prepared: PreparedRequest, answer: Sequence[int]
    ) -> AttentionMaps:
        """Returns the maps of an answer's tokens, when the engine's thread has them.

        Raises:
            MllamaError: If they can't be computed.
            RuntimeError: If the engine is closed or has failed.
        """
        return self._attention.maps(prepared, answer)

    def submit(
        self, request: GenerationRequest, files: Sequence[ImageFile] = ()
    ) -> Generation:
        """Hands a request to the scheduler.

        Args:
            request: The request.
            files: The files of its images, if attention maps are to show them.

        Raises:
            MllamaError: If the request can't be answered as it is.
            RuntimeError: If the engine is closed or has failed.
        """
        started = now()
        prepared = self.prepare(request).result()
        ids = [context.request_id for context in prepared.contexts]
        generation = Generation(
            prepared,
            self._tokenizer,
            started=started,
            cancel=lambda choices: self.cancel([ids[choice] for choice in choices]),
            attention=self._attention.of_request(prepared, files),
        )
        self.start(prepared, generation.steps)
        return generation

    def prepare(self, request: GenerationRequest) -> Future[PreparedRequest]:
        """Starts to make a request ready for the scheduler.

        Returns:
            The prepared request.  The future raises MllamaError if the request can't be
            answered as it is.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        from mllama.requests.preparation import prepare_request

        self.check_alive()
        return asyncio.run_coroutine_threadsafe(
            prepare_request(
                request, self._tokenizer, self._settings, grammars=self._grammars
            ),
            self._loop,
        )

    def start(self, prepared: PreparedRequest, steps: StepQueue) -> None:
        """Hands a prepared request to the scheduler.

        Args:
            prepared: The request.
            steps: Gets the scheduler's reports.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        with self._lock:
            self.check_alive()
            self._running.submit(prepared.contexts, steps)

    def cancel(self, request_ids: Sequence[Any]) -> None:
        """Cancels answers by their contexts' ids, unless they have ended."""
        self._running.cancel(request_ids)

    @property
    def tokenizer(self) -> Any:
        """Returns the model's tokenizer.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self.check_alive()
        return self._tokenizer

    @property
    def settings(self) -> EngineSettings:
        """Returns the engine's limits and defaults.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self.check_alive()
        settings: EngineSettings = self._settings
        return settings

    def check_alive(self) -> None:
        """Checks that the engine can answer.

        Raises:
            RuntimeError: If it is closed or has failed.
        """
        if self._closing.is_set():
            raise RuntimeError("the model is closed")
        if self._failure is not None:
            raise RuntimeError("the engine has failed") from self._failure

    def close(self) -> None:
        """Ends running requests and frees the model.  Further calls do nothing."""
        self._closing.set()
        self._running.wake.set()
        engine, requests = self._threads
        if self._ready.is_set():
            engine.join()
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
            requests.join()
            self._loop.close()
        self._tokenizer = self._image_cache = self._grammars = None
        gc.collect()
        # glibc keeps freed memory until this call, which other C libraries lack.
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)

    def _run(self) -> None:
        """Runs the engine's thread: loads the model, then steps the scheduler."""
        try:
            if self._quiet:
                scheduler, pipeline = self._load()
            else:
                for line in self._files.lines():
                    print(f"mllama: {line}", file=sys.stderr)
                with StartupProgress():
                    stage("starting MAX")
                    scheduler, pipeline = self._load()
        except BaseException as error:
            self._failure = error
            self._ready.set()
            return
        self._ready.set()
        try:
            self._serve(scheduler, pipeline.kv_manager)
        except BaseException as error:
            self._failure = error
        finally:
            reason = self._failure or RuntimeError("the model was closed")
            # No other is submitted: whoever waits for the lock checks first.
            with self._lock:
                self._running.end_all(reason)
            self._attention.end_all(reason)
            pipeline.kv_manager.shutdown()

    def _load(self) -> tuple[Any, Any]:
        from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig

        from mllama.max_compat.model import (
            Settings,
            WorkerQueues,
            ensure_default_mlir_context,
            load_scheduler,
        )
        from mllama.max_model.memory_planner import plan_within_memory_limit
        from mllama.requests.format_grammars import FormatGrammars
        from mllama.requests.token_grammars import TokenGrammars
        from mllama.runtime.pipeline import load_pipeline

        restore_child_environment()
        self._files = self._files.ensure_quantized(self._quiet)
        config = PipelineConfig.from_args(self._options.pipeline_args(self._files))
        with ensure_default_mlir_context():
            plan_within_memory_limit()
            retrieved = PIPELINE_REGISTRY.retrieve_factory(config)
            self._tokenizer = retrieved.tokenizer
            serving = self._serving
            loaded = load_pipeline(
                retrieved.factory,
                self._options.max_ce_batch_size,
                # In each step, which only a server's figures are worth.
                publish=None if serving is None else self._publish,
            )
            if serving is not None and serving.attention:
                loaded.attention.check_device()
                loaded.attention.load()
        verdict = loaded.gpu_verdict
        if verdict is not None:
            self._gpu_verdict = verdict
            self._tokenizer.image_limits.set_gpu_verdict(lambda: verdict)
        pipeline = loaded.pipeline
        self.max_batch_size = pipeline.max_batch_size
        self._image_cache = loaded.image_cache
        self._attention.mapper = loaded.attention
        defaults = ServingOptions() if serving is None else serving
        self._settings = EngineSettings.of(
            config,
            self._tokenizer,
            top_k=defaults.top_k,
            max_new_tokens=defaults.max_new_tokens,
            tool_parser=self._options.tool_form,
        )
        delegate, ends = self._tokenizer.delegate, self._settings.end_tokens
        self._grammars = FormatGrammars(lambda: TokenGrammars(delegate, ends))
        # The scheduler waits for something to do.
        loaded.grammar_gate.call_when_ready(self._running.wake.set)
        scheduler = load_scheduler(
            pipeline,
            config,
            Settings(offline_inference=True),
            WorkerQueues(
                self._running.incoming, self._running, self._running.cancelled
            ),
            retrieved.memory_plan,
        )
        # The metrics take time in every step, and only a server uses them.
        patches.replace_scheduler_metrics(scheduler, _ignore)
        return scheduler, pipeline

    def _publish(self, stats: EngineStats) -> None:
        self._stats = stats

    def _serve(self, scheduler: Any, kv_cache: Any) -> None:
        from mllama.max_compat.model import SchedulerProgress

        while not self._closing.is_set():
            self._running.wake.clear()
            self._attention.run_next()
            if self._resets_prefix_cache.is_set():
                self._resets_prefix_cache.clear()
                # As MAX's worker does, between two steps.
                kv_cache.reset_prefix_cache()
            if scheduler.run_iteration() is SchedulerProgress.NO_PROGRESS:
                is_waiting = self._running or self._attention
                self._running.wake.wait(_IDLE_SECONDS if is_waiting else None)


def _ignore(**_: Any) -> None:
    pass


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
