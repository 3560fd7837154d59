"""Layers of one kind compiled once."""

from __future__ import annotations

from collections.abc import Sequence

from max import tree
from max.graph import Graph, TensorValue, Value, ops
from max.nn.layer import Module
from max.tree import Tree


class RepeatedLayer:
    """Calls layers of one kind through a single subgraph.

    The first call builds the subgraph from its layer; the others name their own
    weights by prefix.  Compile time then follows the number of distinct kinds, not
    the depth of the model.

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
            inputs: The positional arguments of ``layer``; anything that differs
                between the layers must be among them (a layer index, say).
            prefix: The layer's full path in the root module, with its final dot.

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
    """A :class:`RepeatedLayer` for each kind of layer, made when it is asked for.

    Args:
        name: What the subgraphs' names begin with.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._kinds: dict[str, RepeatedLayer] = {}

    def __getitem__(self, kind: str) -> RepeatedLayer:
        if kind not in self._kinds:
            number = f"_{len(self._kinds) + 1}" if self._kinds else ""
            self._kinds[kind] = RepeatedLayer(self.name + number)
        return self._kinds[kind]
