"""Measures the parts of a request in this project's process.

The pipeline is unchanged, except that its compiled graphs are replaced by objects that
run them and record the time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

VISION, TEXT, SAMPLING, PREPARING = "vision", "text", "sampling", "preparing"


class Clock:
    """Spans of the current request: what ran, from when, for how long."""

    def __init__(self) -> None:
        self._pipeline: Any = None
        self.after: dict[str, Callable[[], Any]] = {}
        """Functions to call once, by the name of the span to call them after."""
        self.between: Callable[[], float] | None = None
        """Function to call after each step, whose results are recorded."""
        self.reset()

    def reset(self) -> None:
        """Forgets the spans."""
        self.spans: list[tuple[str, float, float, int]] = []
        self.measured_between: list[float] = []

    def note(self, name: str, started: float, rows: int = 0) -> None:
        """Adds a span that ends now."""
        self.spans.append((name, started, time.perf_counter() - started, rows))
        if name in self.after:
            self.after.pop(name)()
        if name == TEXT and self.between is not None:
            self.measured_between.append(self.between())

    def report(self) -> dict[str, float | None]:
        """Returns the seconds of a request's parts, with decode steps summed up."""
        texts = self._all(TEXT)
        return {
            "preparing": self._total(PREPARING),
            "vision": self._total(VISION),
            "prefill_graph": texts[0] if texts else None,
            "decode_graphs": sum(texts[1:]),
            "decode_graph": statistics.median(texts[1:]) if texts[1:] else None,
            "sampling": self._total(SAMPLING),
        }

    def readable(self) -> dict[str, float]:
        """Medians of the bandwidth between steps, in GB/s, and of the GB that it makes
        in a step's time, where ``between`` has measured it."""
        _, *steps = self._all(TEXT)
        around = [sum(pair) / 2 for pair in pairwise(self.measured_between)]
        return {
            "bandwidth": statistics.median(around),
            "readable": statistics.median(
                took * bandwidth for took, bandwidth in zip(steps, around, strict=True)
            ),
        }

    def step_of(self, requests: int) -> float:
        """Median seconds of a decode step of that many requests, graph and around it.

        Raises:
            RuntimeError: If there were no two such steps.
        """
        starts = [
            (started, rows) for name, started, _, rows in self.spans if name == TEXT
        ]
        steps = [
            later - started
            for (started, rows), (later, rows_later) in pairwise(starts)
            if rows == rows_later == requests
        ]
        if not steps:
            raise RuntimeError(f"no step decoded {requests} requests together")
        return statistics.median(steps)

    def about(self) -> dict[str, Any]:
        """Returns the properties of the loaded model that byte counts need."""
        from mllama.kernels.dispatch import chosen_kernels, kernels_summary

        pool = self._pipeline._pipeline_model.image_cache.storage.params
        return {
            "kernels": kernels_summary(chosen_kernels()),
            "pool_item_bytes": pool.dtype.size_in_bytes,
        }

    def _all(self, wanted: str) -> list[float]:
        return [took for name, _, took, _ in self.spans if name == wanted]

    def _total(self, wanted: str) -> float:
        return sum(self._all(wanted))

    def attach(self, pipeline: Any) -> None:
        """Times a pipeline's graphs from now on."""
        self._pipeline = pipeline
        model = pipeline._pipeline_model
        model._text_decoder = TimedGraph(TEXT, model._text_decoder, self)
        runner = model.image_encoder
        runner._encoder = TimedGraph(VISION, runner._encoder, self)


class TimedGraph:
    """A compiled graph that records how long its runs take.

    On a CPU a run has ended when it returns.
    """

    def __init__(self, name: str, graph: Any, clock: Clock) -> None:
        self._name, self._graph, self._clock = name, graph, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def execute(self, *arguments: Any) -> Any:
        """Runs the graph."""
        started = time.perf_counter()
        result = self._graph.execute(*arguments)
        rows = int(arguments[0].shape[0]) if self._name == TEXT else 0
        self._clock.note(self._name, started, rows)
        return result


def watch(clock: Clock) -> None:
    """Has the engine that is made next timed.

    It loads nothing of MAX, as what the engine does before that is measured with it.
    """
    from mllama.engine.engine import Engine

    load, prepare = Engine._load, Engine.prepare

    def timed_load(self: Engine) -> tuple[Any, Any]:
        from mllama.runtime import host_sampler

        choose = host_sampler.choose_tokens

        def timed_choice(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            tokens = choose(*arguments, **options)
            clock.note(SAMPLING, started)
            return tokens

        host_sampler.choose_tokens = timed_choice
        scheduler, pipeline = load(self)
        clock.attach(pipeline)
        return scheduler, pipeline

    def timed_prepare(self: Engine, request: Any) -> Any:
        started = time.perf_counter()
        prepared = prepare(self, request)
        prepared.add_done_callback(lambda _: clock.note(PREPARING, started))
        return prepared

    for name, function in (("_load", timed_load), ("prepare", timed_prepare)):
        setattr(Engine, name, function)
