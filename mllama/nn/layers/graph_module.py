"""What both graphs have in common: a network whose call is a graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from max import tree
from max.graph import (
    DeviceRef,
    Graph,
    Type,
    Value,
    default_custom_extensions_scope,
)
from max.graph import Module as MaxModule

from mllama.kernels.dispatch import mojo_package, uses_custom_ops
from mllama.nn.layers.tensor_parallel import Sharded


class GraphModule(Sharded):
    """A network that is traced as a graph of its own.

    Attributes:
        device: Where the graph's inputs are; the first of several.
        operations: Folders of ``mllama/kernels`` with the own operations that its graph
            on a CPU may use.
    """

    device: DeviceRef
    operations: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def argument_types(self) -> tuple[Any, ...]:
        """Types of the arguments of a call, nested as they are."""

    def input_types(self) -> tuple[Type[Any], ...]:
        """The graph's inputs: the leaves of :meth:`argument_types`, in order."""
        return tuple(tree.leaves(self.argument_types()))

    def custom_ops_scope(self) -> AbstractContextManager[None]:
        """Lets graphs that are made within it use :attr:`operations`."""
        own = [
            mojo_package(name)
            for name in self.operations
            if uses_custom_ops(self.device)
        ]
        # Subgraphs don't see what is given to their graph, but they see this.
        return default_custom_extensions_scope(*own)

    def trace(
        self,
        *input_types: Type[Any],
        name: str | None = None,
        module: MaxModule | None = None,
        custom_extensions: Iterable[Path] = (),
        is_device_graph: bool = False,
    ) -> Graph:
        """Traces the graph; see :meth:`input_types`."""
        _, structure = tree.flatten(self.argument_types())

        def forward(*inputs: Value[Any]) -> Any:
            return self(*tree.unflatten(structure, iter(inputs)))

        with self.custom_ops_scope():
            return Graph(
                name or type(self).__qualname__,
                forward,
                input_types=input_types,
                custom_extensions=custom_extensions,
                module=module,
                is_device_graph=is_device_graph,
            )
