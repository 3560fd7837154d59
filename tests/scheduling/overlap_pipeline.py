"""MAX's overlap pipeline and its captured device graphs on a CPU, for tests.

MAX refuses both on a CPU.  Everything here is MAX's own code except what names a GPU:
checks that the device isn't the host, buffers in pinned memory, and the capture and
replay of a graph.  A replay is what it is on a GPU: the graph runs on the inputs with
which it was captured.  Those in a GPU's memory have been overwritten with the step's;
those on the host still have the values of the capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from max import tree
from max.driver import Buffer
from max.graph import DeviceRef
from max.pipelines.lib import graph_capture, registry
from max.pipelines.lib.pipeline_variants import overlap_text_generation as overlap

from mllama.image_cache import storage
from mllama.max_compat.pipeline import pipeline_model
from mllama.max_model.graphs import text_decoder
from mllama.max_model.model_config import MllamaArchConfig
from mllama.nn.layers import image_cache_inputs
from mllama.runtime.greedy_sampler import GreedySampler, is_plainly_greedy
from mllama.runtime.host_sampler import HostSamplingProcessor

from .harness import Scheduled

T = TypeVar("T")

FIRST_READ = 3
"""Index of the image cache's first input among those of the text graph."""


class _Devices(list[Any]):
    """Devices of which the first passes for a GPU the first time that it is read."""

    def __getitem__(self, index: Any) -> Any:
        if index == 0 and not hasattr(self, "seen"):
            self.seen = True
            return SimpleNamespace(is_host=False)
        return super().__getitem__(index)


class CpuOverlapPipeline(overlap.OverlapTextGenerationPipeline[T], Generic[T]):  # type: ignore[misc, type-var]
    """MAX's pipeline, which samples on the host.

    Attributes:
        greedy: Chooses the tokens of greedy batches, as on a GPU, if it is given.
        greedy_batches: How often it did so.
    """

    greedy: GreedySampler | None = None
    greedy_batches = 0

    def _create_sampling_processor(self, flat_batch: Any) -> Any:
        kind: Any = HostSamplingProcessor
        device: Any = self._devices[0]
        if self.greedy is not None and all(map(is_plainly_greedy, flat_batch)):
            kind, device = kind.with_greedy(self.greedy), SimpleNamespace(is_host=False)
            self.greedy_batches += 1
        return kind(object(), self._pipeline_config, flat_batch, device), None


class CpuFutureTokens(overlap.RealizeFutureTokenProcessor):
    """MAX's graph that gives a step the tokens of the last one."""

    def _compute_mappings(self, prev_batch: Any, inputs: Any) -> Any:
        outside = overlap._OOB_IDX
        before = [context.request_id for context in prev_batch.inputs.flat_batch]
        now = [context.request_id for context in inputs.flat_batch]
        to_now = np.full(len(before), outside, np.int64)
        to_before = np.full(len(now), outside, np.int64)
        for index, context in enumerate(prev_batch.inputs.flat_batch):
            if context.request_id in now and context.tokens.generated_length:
                to_now[index] = now.index(context.request_id)
                to_before[now.index(context.request_id)] = index
        if (to_now == outside).all():
            return None
        return Buffer.from_numpy(to_now), Buffer.from_numpy(to_before)


class CapturedModel:
    """A graph that is captured, instead of MAX's ``Model``."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.captures = 0

    def capture(self, key: int, *inputs: Buffer) -> list[Buffer]:
        self.captures += 1
        outputs: list[Buffer] = self.model.execute(*inputs)
        return outputs

    def _await_device_graphs(self) -> None:
        pass


class CpuCapture(overlap.ServeGraphCaptureRunner):
    """MAX's runner of captured graphs."""

    def __init__(self, *, model: Any, **options: Any) -> None:
        captured: Any = CapturedModel(model)
        super().__init__(model=captured, **options)
        self.replays = 0
        self.gpu_inputs: list[bool] = []
        self.num_reads = 0

    def replay(self, *, model_inputs: Any, batch_characteristics: Any, **_: Any) -> Any:
        self.replays += 1
        key = self._records[batch_characteristics]
        captured, outputs = self.graph_entries[key]
        inputs = model_inputs.buffers
        assert len(inputs) == len(captured) == len(self.gpu_inputs)
        reads = range(FIRST_READ, FIRST_READ + self.num_reads)
        for index, (source, target) in enumerate(zip(inputs, captured, strict=True)):
            assert source.shape == target.shape
            assert source.dtype == target.dtype
            if source._data_ptr() == target._data_ptr():
                continue
            if self.gpu_inputs[index]:
                target.to_numpy()[:] = source.to_numpy()
            elif index in reads:
                # MAX prepares those of the KV cache for a length that was captured.
                np.testing.assert_array_equal(source.to_numpy(), target.to_numpy())
        engine: Any = self._engine_model
        (logits,) = engine.model.execute(*captured)
        outputs.logits.to_numpy()[:] = logits.to_numpy()
        return outputs


@contextmanager
def overlap_on_a_cpu(*, captures: bool) -> Iterator[None]:
    """Makes MAX build its overlap pipeline on a CPU, within a ``with`` block.

    Args:
        captures: Whether the inputs of its graphs are a GPU's, of fixed shapes.
    """
    with pytest.MonkeyPatch.context() as patch:
        if captures:
            for module in (image_cache_inputs, storage):
                patch.setattr(module, "selects_tokens", lambda **_: False)
        load_devices = overlap.load_devices
        patch.setattr(
            overlap, "load_devices", lambda specs: _Devices(load_devices(specs))
        )
        patch.setattr(overlap, "RealizeFutureTokenProcessor", CpuFutureTokens)
        patch.setattr(overlap, "ServeGraphCaptureRunner", CpuCapture)
        patch.setattr(registry, "OverlapTextGenerationPipeline", CpuOverlapPipeline)
        patch.setattr(
            graph_capture, "_release_graph_capture_outputs_to_borrowed", lambda o: o
        )
        yield


def overlapped(*, captures: bool = False, **options: Any) -> Scheduled:
    """Returns the demo model behind MAX's overlap scheduler.

    Args:
        captures: Whether decode steps are captured and replayed.
        options: Options of :class:`Scheduled`.
    """
    with overlap_on_a_cpu(captures=captures):
        scheduled = Scheduled(
            gpu_options={
                "enable_overlap_scheduler": True,
                "device_graph_capture": captures,
            },
            **options,
        )
    if captures:
        _place_inputs(scheduled)
    return scheduled


def _place_inputs(scheduled: Scheduled) -> None:
    """Tells the runner which inputs a GPU has in its memory."""
    config = pipeline_model(scheduled.pipeline).arch_config.model
    on_gpu = MllamaArchConfig.for_graphs(config, "bfloat16", [DeviceRef.GPU()])
    network = text_decoder(on_gpu, {})
    runner = scheduled.pipeline._graph_capture_runner
    runner.gpu_inputs = [not kind.device.is_cpu() for kind in network.input_types()]
    runner.num_reads = len(tree.leaves(network.argument_types()[FIRST_READ]))
