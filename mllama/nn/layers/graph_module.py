"""The base class of the two networks: a module whose call is traced into a graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

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
from mllama.max_compat.mojo_packages import built_mojo_package
from mllama.nn.layers.tensor_parallel import Sharded


class GraphModule(Sharded):
    """A network that is traced into a separate graph.

    Attributes:
        device: Device of the graph's inputs; the first of several.
        mojo_packages: Mojo packages whose custom ops its graph may use on a CPU.
    """

    device: DeviceRef
    mojo_packages: tuple[str, ...] = ()

    @abstractmethod
    def argument_types(self) -> tuple[Any, ...]:
        """Returns the types of the arguments of a call, in the same nesting."""

    def input_types(self) -> tuple[Type[Any], ...]:
        """Returns the flattened :meth:`argument_types`: the graph's input types."""
        return tuple(tree.leaves(self.argument_types()))

    def custom_ops_scope(self) -> AbstractContextManager[None]:
        """Makes the ops of :attr:`mojo_packages` available to graphs traced within."""
        packages = [
            built_mojo_package(mojo_package(name))
            for name in self.mojo_packages
            if uses_custom_ops(self.device)
        ]
        # A graph's own extensions don't reach its subgraphs; those of this scope do.
        return default_custom_extensions_scope(*packages)

    def trace(
        self,
        *input_types: Type[Any],
        name: str | None = None,
        module: MaxModule | None = None,
        custom_extensions: Iterable[Path] = (),
        is_device_graph: bool = False,
    ) -> Graph:
        """Traces the network into a graph.

        Args:
            input_types: Those of :meth:`input_types`.
            name: The graph's name; by default the class's.
            module: The MAX module that gets the graph; by default a new one.
            custom_extensions: Further Mojo packages.
            is_device_graph: As in MAX's ``Graph``.
        """
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
