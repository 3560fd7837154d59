"""Graphs that are traced only when they have to be compiled.

Tracing a graph takes seconds, and a graph that is already compiled does not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from max.graph import Graph
from max.graph import Module as MaxModule

from mllama.compilation.parallel import ParallelTask
from mllama.compilation.store import GraphKey
from mllama.max_compat.model import GraphSpec


@dataclass(frozen=True)
class LazyGraph:
    """A graph that is traced only when it has to be compiled.

    Attributes:
        name: The graph's name in MAX.
        fingerprint: Text that covers everything the traced graph depends on.
        trace: Traces the graph, which takes seconds.
        is_required: Whether a saved model without this graph is refused.
        task: Compiles the graph in another process, given its key and the directory to
            add it to; None if only this process can.
    """

    name: str
    fingerprint: str
    trace: Callable[[], Graph]
    is_required: bool = False
    task: Callable[[GraphKey, Path], ParallelTask] | None = None

    def key(self, compile_settings: str) -> GraphKey:
        """Returns the key of this graph compiled with the given settings.

        Args:
            compile_settings: MAX's settings that change the generated code, as
                :func:`~mllama.compilation.graph_compiler.default_compile_settings`
                returns them.
        """
        return GraphKey.of(self.name, f"{self.fingerprint}\n{compile_settings}")


@dataclass(frozen=True)
class LazyGraphSpec(GraphSpec):
    """The specification of a pipeline's graph whose tracing is deferred.

    Attributes:
        fingerprint: Text that covers everything the traced graph depends on, except
            the types of its inputs.
        task: See :class:`LazyGraph`.
        is_required: See :class:`LazyGraph`.
    """

    fingerprint: str = ""
    task: Callable[[GraphKey, Path], ParallelTask] | None = None
    is_required: bool = True

    def trace(self, module: MaxModule | None = None) -> Any:
        """Returns a graph that :class:`GraphCompiler` traces if it has to."""
        assert module is None
        types = [str(kind) for kind in self.input_types]
        return LazyGraph(
            self.name,
            f"{self.fingerprint}\n{types}",
            super().trace,
            is_required=self.is_required,
            task=self.task,
        )
