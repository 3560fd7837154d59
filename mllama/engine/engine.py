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
import queue
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mllama.engine.generation import Generation, Step, now
from mllama.errors import MllamaError
from mllama.image_cache.context import image_tokens_of
from mllama.image_cache.stats import ImageCacheStats
from mllama.launch.options import EngineOptions
from mllama.max_compat import patches
from mllama.requests.detokenizer import StreamingDetokenizer
from mllama.requests.sampling_params import Sampling, SamplingDefaults
from mllama.utils.child_processes import restore_child_environment
from mllama.utils.cpu_affinity import start_max_threads
from mllama.utils.progress import StartupProgress, stage

if TYPE_CHECKING:
    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles

_IDLE_SECONDS = 0.05
"""Pause while all requests wait for room; a new request ends it."""


class Engine:
    """A loaded model that processes many requests concurrently.

    Attributes:
        max_batch_size: Requests processed concurrently, at most.

    Args:
        options: Options for running the model.
        quiet: Whether to hide the progress of loading.

    Raises:
        MllamaError: If the options or the checkpoint can't be served.
    """

    def __init__(self, options: EngineOptions, *, quiet: bool = False) -> None:
        start_max_threads(options.num_threads)
        self._files = options.resolve(quiet=quiet)
        # MAX's compiler must be imported by the thread that lives longest.
        importlib.import_module("max.graph")
        self._options = options
        self._quiet = quiet
        self._incoming: queue.Queue[Any] = queue.Queue()
        self._cancelled: queue.Queue[list[Any]] = queue.Queue()
        # Not the generations: one that its user drops must be collected and cancelled.
        self._running: dict[Any, queue.SimpleQueue[Step]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._tokenizer: Any = None
        self.max_batch_size = 1
        self._defaults = SamplingDefaults()
        self._image_cache: Any = None
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

    def sampling_params(self, sampling: Sampling) -> Any:
        """Returns MAX's sampling parameters, with the checkpoint's defaults filled in.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self._check_alive()
        return sampling.to_max(self._defaults, vocabulary=len(self._tokenizer.delegate))

    def image_cache_stats(self) -> ImageCacheStats:
        """Returns a snapshot of the image cache.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self._check_alive()
        stats: ImageCacheStats = self._image_cache.stats()
        return stats

    def prepare_image(self, file: ImageFile) -> Future[ImageTiles]:
        """Starts to split an image file into tiles.

        Raises:
            RuntimeError: If the engine is closed or has failed.
        """
        self._check_alive()
        tiles: Future[ImageTiles] = self._tokenizer.prepare_image(file)
        return tiles

    def submit(self, request: Any, stop: list[str]) -> Generation:
        """Hands a request to the scheduler.

        Args:
            request: MAX's ``TextGenerationRequest``.
            stop: Strings that end the answer.

        Raises:
            MllamaError: If the tokenizer refuses the request.
            RuntimeError: If the engine is closed or has failed.
        """
        started = now()
        self._check_alive()
        request_id = request.request_id
        context = self._context(request)
        image_tokens = image_tokens_of(context)
        generation = Generation(
            StreamingDetokenizer(self._tokenizer.delegate, stop),
            text_tokens=context.tokens.prompt_length,
            image_tokens=image_tokens,
            started=started,
            cancel=lambda: self._cancel(request_id),
        )
        with self._lock:
            self._check_alive()
            self._running[request_id] = generation.steps
        self._incoming.put(context)
        self._wake.set()
        return generation

    def _context(self, request: Any) -> Any:
        from max.pipelines.context.exceptions import InputError

        preparing = asyncio.run_coroutine_threadsafe(
            self._tokenizer.new_context(request), self._loop
        )
        try:
            return preparing.result()
        except InputError as error:
            raise MllamaError(_one_line(error)) from error

    def _cancel(self, request_id: Any) -> None:
        with self._lock:
            steps = self._running.pop(request_id, None)
        if steps is not None:
            # Another thread may be waiting for the next step.
            steps.put(Step(None, now()))
            self._cancelled.put([request_id])
            self._wake.set()

    def _check_alive(self) -> None:
        if self._closing.is_set():
            raise RuntimeError("the model is closed")
        if self._failure is not None:
            raise RuntimeError("the engine has failed") from self._failure

    def close(self) -> None:
        """Ends running requests and frees the model.  Further calls do nothing."""
        self._closing.set()
        self._wake.set()
        engine, requests = self._threads
        if self._ready.is_set():
            engine.join()
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
            requests.join()
            self._loop.close()
        self._tokenizer = self._image_cache = None
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
                print(f"mllama: {self._files.summary()}", file=sys.stderr)
                with StartupProgress():
                    stage("starting MAX")
                    scheduler, pipeline = self._load()
        except BaseException as error:
            self._failure = error
            self._ready.set()
            return
        self._ready.set()
        try:
            self._serve(scheduler)
        except BaseException as error:
            self._failure = error
        finally:
            self._end_all()
            pipeline.kv_manager.shutdown()

    def _load(self) -> tuple[Any, Any]:
        from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig

        from mllama.max_compat.model import (
            Settings,
            WorkerQueues,
            ensure_default_mlir_context,
            load_scheduler,
        )
        from mllama.runtime.pipeline import load_pipeline

        restore_child_environment()
        config = PipelineConfig.from_args(
            self._options.pipeline_args(self._files.ensure_quantized(self._quiet))
        )
        with ensure_default_mlir_context():
            retrieved = PIPELINE_REGISTRY.retrieve_factory(config)
            self._tokenizer = retrieved.tokenizer
            loaded = load_pipeline(retrieved.factory, self._options.max_ce_batch_size)
        pipeline = loaded.pipeline
        self.max_batch_size = pipeline.max_batch_size
        self._image_cache = loaded.image_cache
        temperature = config.model.sampling_params_defaults.temperature
        if temperature is not None:
            self._defaults = SamplingDefaults(temperature=temperature)
        scheduler = load_scheduler(
            pipeline,
            config,
            Settings(offline_inference=True),
            WorkerQueues(self._incoming, _Results(self._deliver), self._cancelled),
            retrieved.memory_plan,
        )
        # The metrics take time in every step, and only a server uses them.
        patches.replace_scheduler_metrics(scheduler, _ignore)
        return scheduler, pipeline

    def _serve(self, scheduler: Any) -> None:
        from mllama.max_compat.model import SchedulerProgress

        while not self._closing.is_set():
            self._wake.clear()
            if scheduler.run_iteration() is SchedulerProgress.NO_PROGRESS:
                self._wake.wait(_IDLE_SECONDS if self._running else None)

    def _deliver(self, results: dict[Any, Any]) -> None:
        at = now()
        for request_id, result in results.items():
            with self._lock:
                steps = self._running.get(request_id)
                if result.is_done:
                    self._running.pop(request_id, None)
            if steps is not None:
                steps.put(Step(result, at))

    def _end_all(self) -> None:
        with self._lock:
            running, self._running = self._running, {}
        reason = self._failure or RuntimeError("the model was closed")
        for steps in running.values():
            steps.put(Step(reason, now()))


class _Results:
    """A result queue for the scheduler that delivers results straight to requests."""

    def __init__(self, deliver: Any) -> None:
        self.put_nowait = deliver


def _ignore(**_: Any) -> None:
    pass


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
