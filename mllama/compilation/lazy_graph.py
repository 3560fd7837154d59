"""Graphs that are traced only when they must be compiled.

Tracing takes seconds, and a graph that is kept needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from max.graph import Graph
from max.graph import Module as MaxModule

from mllama.compilation.store import GraphKey
from mllama.max_compat.model import GraphSpec


@dataclass(frozen=True)
class LazyGraph:
    """A graph that is traced only if it must be compiled, which takes seconds.

    Attributes:
        name: MAX's name of it.
        description: All that the traced graph depends on.
        traced: Traces it.
        is_ours: Whether a start from a saved model needs it to be there.
    """

    name: str
    description: str
    traced: Callable[[], Graph]
    is_ours: bool = False

    def key(self, how: str) -> GraphKey:
        """The graph's identity, compiled so; see :func:`default_compile_settings`."""
        return GraphKey.of(self.name, f"{self.description}\n{how}")


@dataclass(frozen=True)
class LazyGraphSpec(GraphSpec):
    """A graph of a pipeline that is not traced before it must be compiled.

    Attributes:
        description: All that the traced graph depends on beside its inputs' types.
    """

    description: str = ""

    def trace(self, module: MaxModule | None = None) -> Any:
        """Leaves tracing to :class:`GraphCompiler`, which stands behind the session."""
        assert module is None
        types = [str(kind) for kind in self.input_types]
        return LazyGraph(
            self.name, f"{self.description}\n{types}", super().trace, is_ours=True
        )
