"""Compiles layers of one kind once."""

from __future__ import annotations

from collections.abc import Sequence

from max import tree
from max.graph import Graph, TensorValue, Value, ops
from max.nn.layer import Module
from max.tree import Tree


class RepeatedLayer:
    """Calls layers of one kind through a single subgraph.

    The first call builds the subgraph from its layer; later calls select the weights of
    theirs by prefix.  Compile time then depends on the number of kinds instead of the
    number of layers.

    Args:
        name: The subgraph's name, unique within the graph.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._subgraph: Graph | None = None

    def __call__(
        self, layer: Module, inputs: Sequence[Tree[Value]], *, prefix: str
    ) -> list[TensorValue]:
        """Runs ``layer`` on ``inputs``.

        Args:
            layer: A layer whose weights are named ``prefix`` + a common suffix.
            inputs: The positional arguments of ``layer``, among them everything that
                differs between layers, such as a layer index.
            prefix: The layer's path in the root module, including the final dot.

        Returns:
            The layer's output tensors.
        """
        if self._subgraph is None:
            self._subgraph = layer.build_subgraph(
                self.name, inputs=list(inputs), weight_prefix=prefix
            )
        outputs = ops.call(self._subgraph, *tree.leaves(list(inputs)), prefix=prefix)
        return [output.tensor for output in outputs]


class RepeatedLayers:
    """A mapping from kinds of layers to :class:`RepeatedLayer`, created on first use.

    Args:
        name: The prefix of the subgraphs' names.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._kinds: dict[str, RepeatedLayer] = {}

    def __getitem__(self, kind: str) -> RepeatedLayer:
        if kind not in self._kinds:
            number = f"_{len(self._kinds) + 1}" if self._kinds else ""
            self._kinds[kind] = RepeatedLayer(self.name + number)
        return self._kinds[kind]
