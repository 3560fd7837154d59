"""The next tokens of greedy requests, chosen by a graph of its own on the device.

MAX's sampler takes seven inputs that are made on the host and copied for each step.
Greedy requests need none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType, ops

from mllama.max_model.sampling_context import logit_bias_of

GRAPH_NAME: Final = "mllama_greedy_sampler"


def greedy_graph(vocab_size: int, num_tokens: int, device: DeviceRef) -> Graph:
    """Returns the graph that maps logits to the token of the largest one.

    Of several largest ones it takes the first, as the host's sampler does and NumPy's
    ``argmax``.  MAX's ``ops.argmax`` may take any of them on a GPU, and logits that
    were ``bfloat16`` are often equal.  Comparisons become factors: on a GPU, MAX 26.7's
    ``where`` has gone wrong in a larger graph (``docs/gpu.md``).

    Args:
        vocab_size: Number of logits of a request.
        num_tokens: Number of tokens to choose from; the rest is never chosen.
        device: Device of the logits.

    Returns:
        float32 ``[requests, vocab_size]`` to int64 ``[requests, 1]``.
    """
    logits_type = TensorType(DType.float32, ["requests", vocab_size], device)
    with Graph(GRAPH_NAME, input_types=[logits_type]) as graph:
        logits = graph.inputs[0].tensor
        if num_tokens < vocab_size:
            logits = logits[:, :num_tokens]
        tokens = ops.range(
            0, num_tokens, 1, out_dim=num_tokens, dtype=DType.int32, device=device
        )
        is_less = ops.cast(logits < ops.max(logits, axis=-1), DType.int32)
        # Others than the largest are moved behind every token.  If all logits are NaN,
        # none may be the largest; the last token is as wrong as any other.
        first = ops.min(tokens + is_less * num_tokens, axis=-1)
        last = ops.constant(num_tokens - 1, DType.int32, device)
        graph.output(ops.cast(ops.min(first, last), DType.int64))
    return graph


@dataclass(frozen=True)
class GreedySampler:
    """Chooses the tokens of batches whose requests are all plainly greedy.

    Attributes:
        run: The compiled graph of :func:`greedy_graph`.
    """

    run: Callable[[Buffer], Sequence[Any]]

    @classmethod
    def load(
        cls, session: Any, vocab_size: int, num_tokens: int | None, device: DeviceRef
    ) -> GreedySampler:
        """Compiles the graph, or takes it from MAX's cache.

        Args:
            session: MAX's session with the device.
            vocab_size: Number of logits of a request.
            num_tokens: The tokenizer's number of tokens; None is no limit.
            device: Device of the logits.
        """
        limit = vocab_size if num_tokens is None else min(num_tokens, vocab_size)
        return cls(session.load(greedy_graph(vocab_size, limit, device)).execute)

    def choose(self, logits: Buffer) -> Buffer:
        """Returns the tokens int64 ``[requests, 1]``, on the logits' device."""
        tokens: Buffer = self.run(logits)[0]
        return tokens


def is_plainly_greedy(context: Any) -> bool:
    """Returns True if the largest of the model's logits is a request's next token."""
    params = context.sampling_params
    return not (
        params.top_k != 1
        or params.needs_penalties
        or params.min_new_tokens
        or params.logits_processors
        or context.log_probabilities
        or context.matcher is not None
        or logit_bias_of(context)
    )
