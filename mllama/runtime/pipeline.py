"""MAX's pipeline, with what this package adds to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mllama.compilation.graph_compiler import lazy_sampler
from mllama.max_compat.lazy_buffer import zero_lazily
from mllama.runtime.admission import Admission
from mllama.runtime.fault_isolation import isolate_failures
from mllama.runtime.greedy_sampler import choose_greedily
from mllama.runtime.overlap import OverlappedExecution
from mllama.utils.max_threads import run_first_patiently


def load_pipeline(factory: Callable[[], Any], max_ce_batch_size: int) -> Any:
    """Loads a model's pipeline, ready for MAX's scheduler.

    Args:
        factory: MAX's own.
        max_ce_batch_size: Most requests whose prompts are read in one step.
    """
    choose_greedily()
    zero_lazily()
    with lazy_sampler():
        pipeline = factory()
    pipeline._pipeline_model.compiler.finish()
    # Inside of what follows: it matters in which thread a graph first runs.
    run_first_patiently(pipeline)
    if pipeline._devices[0].is_host:
        OverlappedExecution(pipeline)
    Admission(pipeline, max_ce_batch_size)
    isolate_failures(pipeline)
    return pipeline
