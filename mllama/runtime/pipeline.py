"""Loads MAX's pipeline and applies this package's changes to it, in order.

The replacements are in this folder; :mod:`mllama.max_compat.patches` assigns them to
MAX's objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from max.graph import DeviceRef

from mllama.compilation.graph_compiler import lazy_sampler
from mllama.errors import MllamaError
from mllama.image_cache.manager import ImageCacheManager
from mllama.image_cache.verdict import ImageVerdict
from mllama.max_compat import patches
from mllama.max_compat.lazy_buffer import LazilyCommittedBuffer
from mllama.max_compat.pipeline import (
    forward_pass,
    is_on_host,
    is_overlapped,
    pipeline_model,
    sampler_device,
)
from mllama.max_model.log_probabilities import prompt_logits_per_step
from mllama.max_model.settings import ModelSettings
from mllama.requests.token_grammars import TokenGrammars
from mllama.runtime.admission import Admission
from mllama.runtime.attention.mapper import AttentionMapper
from mllama.runtime.attention.served_maps import ServedMaps
from mllama.runtime.deferred_outputs import DeferredExecution
from mllama.runtime.early_cancellations import cancellable_queues
from mllama.runtime.engine_stats import EngineStats, engine_stats
from mllama.runtime.fault_isolation import isolate_failures
from mllama.runtime.forced_tokens import appending_forced_tokens
from mllama.runtime.gpu_self_check import GpuSelfCheck
from mllama.runtime.grammar_gate import GrammarGate
from mllama.runtime.greedy_sampler import GreedySampler
from mllama.runtime.host_sampler import HostSamplingProcessor, without_sampler_graphs
from mllama.runtime.overlap import OverlappedExecution
from mllama.runtime.speculation.guess_counts import GuessCounts
from mllama.runtime.speculation.loading import load_draft_model, load_speculation
from mllama.runtime.speculation.speculation import Speculation
from mllama.runtime.verdict_record import record_verdict
from mllama.utils.max_threads import with_timer_slack
from mllama.utils.progress import stage

Execute = Callable[[Any], Any]

AnnouncesSteps = Callable[[Execute, Callable[[], int]], Execute]
"""Wraps ``execute``, given a function that returns the images that it will encode."""


@dataclass(frozen=True)
class LoadedPipeline:
    """A loaded model, ready for MAX's scheduler.

    Attributes:
        pipeline: MAX's ``TextGenerationPipeline``.
        image_cache: The image cache.
        admission: Decides which requests enter a batch.
        overlap: Runs steps ahead of the scheduler; None on a GPU.
        speculation: Guesses the next tokens of answers; None if nothing does.
        self_check: Checks a GPU; it has run there.
        gpu_verdict: Its result; None on a CPU.
        grammar_gate: Holds requests back until their grammars are read.
        attention: Computes attention maps; its graph is loaded when it is needed.
    """

    pipeline: Any
    image_cache: ImageCacheManager
    admission: Admission
    overlap: OverlappedExecution | None
    speculation: Speculation | None
    self_check: GpuSelfCheck
    gpu_verdict: ImageVerdict | None
    grammar_gate: GrammarGate
    attention: AttentionMapper


def load_pipeline(
    factory: Callable[[], Any],
    max_ce_batch_size: int,
    *,
    overlaps: bool = True,
    publish: Callable[[EngineStats], None] | None = None,
    announce: AnnouncesSteps | None = None,
    attention_directory: Path | None = None,
) -> LoadedPipeline:
    """Loads a model's pipeline and changes it.

    Args:
        factory: MAX's factory of the pipeline.
        max_ce_batch_size: Requests that one step prefills at most.
        overlaps: Whether steps on a CPU may run ahead of the scheduler.
        publish: Called with the engine's figures after each step and release.
        announce: Wraps ``execute``, to announce what it computes.
        attention_directory: Where the attention maps of requests are written, whose
            graph is loaded at once; None makes none.

    Raises:
        MllamaError: If the self-check of a GPU can't run, or attention maps can't be
            computed there.
    """
    patches.replace_scheduler_queues(cancellable_queues)
    patches.replace_sampling_processor(HostSamplingProcessor)
    patches.replace_kv_cache_buffer(LazilyCommittedBuffer)
    with lazy_sampler(), patches.replaced_sampler_loading(without_sampler_graphs):
        pipeline = factory()
    model = pipeline_model(pipeline)
    draft = load_draft_model(pipeline)
    model.compiler.finish()
    image_cache: ImageCacheManager = model.image_cache
    on_host = is_on_host(pipeline)
    self_check = GpuSelfCheck(model, pipeline.kv_manager, pipeline.max_batch_size)
    gpu_verdict = None
    if not on_host:
        stage("checking the GPU")
        gpu_verdict = self_check.run()
        path = model.pipeline_config.model.model_path
        record_verdict(gpu_verdict, model.devices, path)

    if ModelSettings.from_max(model.pipeline_config.model).greedy_on_gpu:
        _use_greedy_sampler(pipeline)
    execute, release = pipeline.execute, pipeline.release
    overlap = None
    speculation = None
    if is_overlapped(pipeline):
        if model.pipeline_config.runtime.device_graph_capture:
            _capture_device_graphs(pipeline)
        execute = DeferredExecution(pipeline).execute
    else:
        # Innermost: the first run of a graph starts a thread that inherits the timer
        # slack.
        launch = with_timer_slack(forward_pass(pipeline))
        if overlaps and on_host:
            speculation = load_speculation(pipeline, draft)
            overlap = OverlappedExecution(pipeline, launch, speculation)
            launch, execute, release = overlap.launch, overlap.execute, overlap.release
            patches.replace_batch_preparation(pipeline, overlap.prepare_batch)
            patches.replace_cache_shutdown(pipeline, overlap.shutdown)
        else:
            execute = appending_forced_tokens(execute)
        patches.replace_forward_pass(pipeline, launch)
        execute = isolate_failures(execute)

    vocabulary = model.arch_config.model.text_config.vocab_size
    admission = Admission(
        image_cache,
        pipeline.kv_manager,
        max_ce_batch_size,
        prompt_logits_per_step(vocabulary),
    )
    attention = AttentionMapper(
        model, overlap.wait_for_step if overlap else lambda: None
    )
    alloc: Callable[[Any], Any] = admission.alloc

    tokenizer = pipeline.tokenizer
    grammar_gate = GrammarGate(
        lambda: TokenGrammars(tokenizer.delegate, tokenizer.eos_token_ids)
    )
    patches.replace_grammar_gate(pipeline, grammar_gate)

    execute = admission.clearing_before(execute)
    if attention_directory is not None:
        stage("loading the graph of attention maps")
        attention.check_device()
        attention.load()
        stage(None)
        maps = ServedMaps(attention, image_cache, attention_directory)
        execute, alloc = maps.after(execute), maps.before(alloc)
    patches.replace_block_allocation(pipeline, alloc)
    if announce is not None:
        execute = announce(execute, lambda: admission.new_images)
    if publish is not None:

        def publish_stats() -> None:
            counts = speculation.counts if speculation else GuessCounts()
            publish(engine_stats(pipeline, counts))

        execute, release = _publishing_stats(execute, release, publish_stats)
    patches.replace_execute(pipeline, execute)
    patches.replace_release(pipeline, release)
    return LoadedPipeline(
        pipeline,
        image_cache,
        admission,
        overlap,
        speculation,
        self_check,
        gpu_verdict,
        grammar_gate,
        attention,
    )


def _use_greedy_sampler(pipeline: Any) -> None:
    """Makes a pipeline choose the tokens of greedy batches without MAX's sampler."""
    model = pipeline_model(pipeline)
    device = sampler_device(pipeline)
    if device.is_host:
        raise MllamaError("--greedy-on-gpu and --sample-on-host exclude each other")
    greedy = GreedySampler.load(
        pipeline.session,
        model.arch_config.model.text_config.vocab_size,
        pipeline.vocab_size,
        DeviceRef.from_device(device),
    )
    patches.replace_sampling_processor(HostSamplingProcessor.with_greedy(greedy))


def _capture_device_graphs(pipeline: Any) -> None:
    """Captures a pipeline's decode steps, before admission knows only real requests."""
    stage("capturing device graphs")
    pipeline.warmup_graph_capture()
    stage(None)
    patches.replace_graph_capture_warmup(pipeline, lambda: None)


def _publishing_stats(
    execute: Callable[[Any], Any],
    release: Callable[[Any], None],
    publish: Callable[[], None],
) -> tuple[Callable[[Any], Any], Callable[[Any], None]]:
    """Returns both functions, followed by a call of ``publish``."""

    def publishing_execute(inputs: Any) -> Any:
        try:
            return execute(inputs)
        finally:
            publish()

    def publishing_release(request_id: Any) -> None:
        release(request_id)
        publish()

    publish()
    return publishing_execute, publishing_release
