"""Every change of MAX's own objects, one function each.

A function takes the replacement from its caller and assigns it.  Each says why the
change is needed (*Why*), and what MAX would have to offer for the function to go
(*Until*).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

Function = Callable[..., Any]

KV_CACHE_OPS: Final = "max._kv_cache_ops"


def replace_kv_cache_ops(module: ModuleType) -> None:
    """Replaces a module that MAX has not imported yet.

    Why: its first import in an environment compiles it, 15 to 36 seconds on two cores,
    and a CPU never calls it.
    Until: MAX ships the module compiled, or imports it when it is needed.
    """
    sys.modules.setdefault(KV_CACHE_OPS, module)


def replace_sampling_processor(processor: type) -> None:
    """Replaces the class that samples the tokens of a batch.

    Why: on a CPU, tokens are chosen on the host.  MAX's sampler is a graph that takes
    half a minute to compile and whose inputs are made anew for each step, on a GPU for
    greedy batches too.
    Until: MAX samples on the host without a graph, each request by its own settings,
    and greedy batches on a GPU without inputs from the host.
    """
    from max.pipelines.lib.pipeline_variants import (
        overlap_text_generation,
        text_generation,
    )

    text_generation.FusedSamplingProcessor = processor
    overlap_text_generation.FusedSamplingProcessor = processor


def replace_free_memory(free_memory: Function) -> None:
    """Replaces what says how much memory the caches are planned from.

    Why: on a CPU, MAX takes all of the machine's memory, also where a container or a
    systemd unit may use a part of it: caches that fill would have the kernel kill the
    model.
    Until: MAX plans a CPU's caches from ``max.support.host_memory``.
    """
    from max.pipelines.lib.memory_estimation import MemoryEstimator

    MemoryEstimator._free_memory = staticmethod(free_memory)


def replace_kv_cache_buffer(buffer: type) -> None:
    """Replaces the class that allocates the memory of KV caches.

    Why: MAX writes zeros to the whole cache, 13 GB in 20 s as measured; fresh pages of
    the system are zeros already.
    Until: MAX allocates caches lazily on a CPU.
    """
    from max.pipelines.kv_cache.paged_kv_cache import jenga_cache_manager

    jenga_cache_manager.Buffer = buffer


@contextmanager
def replaced_sampler_loading(
    replacement: Callable[[Function], Function],
) -> Iterator[None]:
    """Replaces how a pipeline compiles its samplers, within a ``with`` block.

    Why: on a CPU, tokens are chosen on the host, and the graphs would never run.
    Until: MAX samples on the host without a graph, each request by its own settings.

    Args:
        replacement: Makes the replacement, given MAX's own function.
    """
    from max.pipelines.lib.pipeline_variants import (
        overlap_text_generation,
        text_generation,
    )

    original = text_generation.load_sampler_graphs
    for module in (text_generation, overlap_text_generation):
        module.load_sampler_graphs = replacement(original)
    try:
        yield
    finally:
        for module in (text_generation, overlap_text_generation):
            module.load_sampler_graphs = original


@contextmanager
def replaced_sampler_trace(
    replacement: Callable[[Function], Function],
) -> Iterator[None]:
    """Replaces the method that traces the sampler's graph, within a ``with`` block.

    Why: MAX traces the graph whenever it loads a model, even if the compiled graph is
    cached.
    Until: MAX looks a compiled graph up before it traces one.

    Args:
        replacement: Makes the replacement, given MAX's own method.
    """
    from max.pipelines.sampling import TopKSampler

    original = TopKSampler.trace
    TopKSampler.trace = replacement(original)
    try:
        yield
    finally:
        TopKSampler.trace = original


def replace_compilation(
    session: Any, *, compile_graph: Function, init_all: Function
) -> None:
    """Replaces how a session compiles a graph, and how it loads compiled ones.

    Why: compiled graphs are cached by a fingerprint, copied to other machines, and
    compiled in parallel; startup shows its progress.
    Until: MAX's own cache needs no tracing, and MEF files name what they were made for.

    Args:
        session: MAX's ``InferenceSession``.
        compile_graph: Replaces ``compile_reusing_mefs``.
        init_all: Replaces ``init_all``.
    """
    session.compile_reusing_mefs = compile_graph
    session.init_all = init_all


def replace_forward_pass(pipeline: Any, launch: Function) -> None:
    """Replaces how a pipeline runs the model on a prepared batch.

    Why: a step may have been run before it is requested, and the thread that MAX starts
    with the first one wakes thousands of times a second.
    Until: MAX overlaps steps on a CPU, and its idle threads sleep.
    """
    pipeline._launch_forward_pass = launch


def replace_batch_preparation(pipeline: Any, prepare_batch: Function) -> None:
    """Replaces how a pipeline makes a batch's inputs.

    Why: a step that runs already has its inputs.
    Until: MAX overlaps steps on a CPU.
    """
    pipeline.prepare_batch = prepare_batch


def replace_execute(pipeline: Any, execute: Function) -> None:
    """Replaces how a pipeline computes a batch.

    Why: steps overlap, a batch that fails is split into its requests, and the image
    cache's figures are published.
    Until: MAX overlaps steps on a CPU, survives exceptions of a batch, and has hooks
    around a step.
    """
    pipeline.execute = execute


def replace_release(pipeline: Any, release: Function) -> None:
    """Replaces how a pipeline releases a request.

    Why: a step that runs ahead must be discarded, and the image cache's figures are
    published.
    Until: MAX overlaps steps on a CPU and has hooks around a release.
    """
    pipeline.release = release


def replace_block_allocation(pipeline: Any, alloc: Function) -> None:
    """Replaces how KV-cache blocks are reserved for a request.

    Why: MAX admits a request when its KV blocks fit; its images must fit too.
    Until: MAX lets an architecture take part in admission.
    """
    pipeline.kv_manager.alloc = alloc


@contextmanager
def without_prefix_lookup(kv_manager: Any) -> Iterator[None]:
    """Keeps a KV cache from looking up cached prefixes, within a ``with`` block.

    Why: tokens whose keys and values are taken from the cache have no logits, and a
    request may ask for the log probabilities of all tokens of its prompt.
    Until: MAX lets a request skip the look-up.
    """
    original = kv_manager._enable_prefix_caching
    kv_manager._enable_prefix_caching = False
    try:
        yield
    finally:
        kv_manager._enable_prefix_caching = original


def replace_graph_capture_warmup(pipeline: Any, warm_up: Function) -> None:
    """Replaces how a pipeline captures its decode steps as device graphs.

    Why: MAX's worker captures them after the factory has returned, with made-up
    requests that the image cache's admission doesn't know.  They are captured before
    it takes part.
    Until: MAX lets an architecture take part in admission.
    """
    pipeline.warmup_graph_capture = warm_up


def drop_pending_outputs(pipeline: Any) -> None:
    """Makes an overlapped pipeline forget the batch whose outputs are pending.

    Why: after an exception, the outputs of that batch can't be read any more, and each
    later batch would raise.
    Until: MAX survives exceptions of a batch.
    """
    pipeline._prev_batch = None


def replace_cache_shutdown(pipeline: Any, shutdown: Function) -> None:
    """Replaces how a pipeline's KV cache is freed.

    Why: a step that runs ahead still uses it.
    Until: MAX overlaps steps on a CPU.
    """
    pipeline.kv_manager.shutdown = shutdown


_GATES: Final[WeakKeyDictionary[Any, Any]] = WeakKeyDictionary()
"""What holds requests back until their grammars are read, by pipeline."""


def replace_grammar_gate(pipeline: Any, gate: Any) -> None:
    """Replaces what holds a pipeline's requests until their grammars are read.

    Why: MAX compiles grammars for its own sampler only, which a CPU doesn't use.
    Until: MAX has structured output on a CPU.

    Args:
        pipeline: MAX's pipeline, before its scheduler is made.
        gate: Has the methods of MAX's ``AsyncGrammarGate``.
    """
    from max.serve.scheduler.batch_constructor.text_batch_constructor import (
        TextBatchConstructor,
    )

    if not _GATES:
        original = TextBatchConstructor.__init__

        @wraps(original)
        def init(self: Any, *args: Any, **more: Any) -> None:
            original(self, *args, **more)
            self._grammar_gate = _GATES.get(self.pipeline, self._grammar_gate)

        TextBatchConstructor.__init__ = init
    _GATES[pipeline] = gate


def replace_scheduler_metrics(scheduler: Any, log_metrics: Function) -> None:
    """Replaces the function that logs a scheduler's metrics after each step.

    Why: without a server nobody reads them, and they take time in each step.
    Until: MAX's scheduler can run without metrics.
    """
    scheduler.scheduler_logger.log_metrics = log_metrics


def replace_scheduler_queues(
    replacement: Callable[[Any, Any], tuple[Any, Any]],
) -> None:
    """Replaces the queues from which schedulers take requests and cancellations.

    Why: a scheduler forgets the cancellation of a request that it hasn't taken from its
    queue yet, and answers it to the end.
    Until: MAX's scheduler remembers such a cancellation.

    Args:
        replacement: Returns both queues, given MAX's.
    """
    from max.serve.scheduler.text_generation_scheduler import TokenGenerationScheduler

    # A process that loads several models replaces them once.
    current = TokenGenerationScheduler.__init__
    original = getattr(current, "__wrapped__", current)

    @wraps(original)
    def init(self: Any, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        self.request_queue, self.cancel_queue = replacement(
            self.request_queue, self.cancel_queue
        )

    TokenGenerationScheduler.__init__ = init


def extend_worker_logging(apply: Callable[[], None]) -> None:
    """Calls a function when the worker has configured its log.

    Why: the worker logs before it builds the pipeline, where this package's code would
    come first.
    Until: MAX lets a server choose the format of the log.

    Args:
        apply: Changes the log's handlers.
    """
    from max.serve.pipelines import model_worker

    original = model_worker.configure_logging

    @wraps(original)
    def configure(*args: Any, **more: Any) -> None:
        original(*args, **more)
        apply()

    model_worker.configure_logging = configure


def replace_prefix_cache_reset(reset: Function) -> None:
    """Replaces how the server tells its worker to empty the prefix cache.

    Why: MAX waits for the worker in the server's event loop, for ever while there is no
    worker.
    Until: MAX doesn't wait.

    Args:
        reset: Gets MAX's frontend.
    """
    from max.serve.pipelines.reset_prefix_cache import ResetPrefixCacheFrontend

    ResetPrefixCacheFrontend.enqueue_reset_prefix_cache = reset


def keep_routes(app: Any, paths: Collection[str]) -> None:
    """Removes the routes of MAX Serve's application, except some.

    Why: MAX's routes ignore or lack much of the API, block the event loop while they
    decode images, and stand where this package's have to; others are for other models.
    Until: MAX lets a server choose its routes.

    Args:
        app: MAX Serve's application.
        paths: Paths of the routes that stay.
    """
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", "") in paths
    ]


def drop_request_session(app: Any) -> None:
    """Removes the middleware that names and counts an application's requests.

    Why: it counts them by their paths, which clients choose, so that random ones grow
    ``/metrics`` without end; it names them itself whatever the client calls them; and
    Starlette's base class passes each chunk of a stream through a queue.
    Until: MAX counts requests by routes, and lets a server choose its middleware.

    Args:
        app: MAX Serve's application, before its first request.
    """
    middleware = app.user_middleware
    kept = [
        each
        for each in middleware
        if getattr(each.kwargs.get("dispatch"), "__module__", "") != "max.serve.request"
    ]
    if len(kept) == len(middleware):
        raise RuntimeError("MAX Serve's application has no request_session")
    middleware[:] = kept
