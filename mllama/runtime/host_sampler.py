"""MAX's batches on other samplers than MAX's: the host's, or a GPU's greedy graph.

MAX's sampler is a graph that takes half a minute to compile, has seven inputs that are
made anew for each step, and exists once for each combination of features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device
from max.graph import DeviceRef

from mllama.max_compat.model import BatchProcessorInputs, FusedSamplingProcessor
from mllama.max_compat.pipeline import no_sampler_graphs
from mllama.max_model.host_buffers import on_host
from mllama.max_model.sampling_context import logit_bias_of, prompt_length_of
from mllama.requests.answer_matcher import (
    AnswerMatcher,
)
from mllama.runtime.greedy_sampler import GreedySampler, is_plainly_greedy
from mllama.sampling import sampler as host
from mllama.sampling.state import GREEDY, SamplingSettings, SamplingState, Tokens


class HostSamplingProcessor(FusedSamplingProcessor):
    """A sampling processor that chooses tokens on the host, without MAX's sampler.

    On a GPU it is MAX's own, unless MAX is told to sample on the host, or there is a
    ``greedy`` sampler and it can choose the tokens of the whole batch.
    """

    greedy: ClassVar[GreedySampler | None] = None
    """The sampler for greedy batches on a GPU; None leaves those to MAX."""

    @classmethod
    def with_greedy(cls, greedy: GreedySampler) -> type[HostSamplingProcessor]:
        """Returns a class of processors that have a sampler for greedy batches."""
        return type(cls.__name__, (cls,), {"greedy": greedy})

    def __init__(
        self,
        sampler: Any,
        pipeline_config: Any,
        context_batch: list[Any],
        device: Device,
        bitmask: npt.NDArray[np.int32] | None = None,
        vocab_size: int | None = None,
        identity_logit_offsets: Buffer | None = None,
        **options: Any,
    ) -> None:
        self._states: list[SamplingState] | None = None
        self._is_greedy = (
            self.greedy is not None
            and bitmask is None
            and not device.is_host
            and all(map(is_plainly_greedy, context_batch))
        )
        if self._is_greedy:
            self.batch_size = len(context_batch)
            self._identity_logit_offsets = identity_logit_offsets
        elif device.is_host:
            self.batch_size = len(context_batch)
            self.vocab_size = vocab_size
            self._states = sampling_states(context_batch, bitmask)
            self._identity_logit_offsets = identity_logit_offsets
        else:
            super().__init__(
                sampler,
                pipeline_config,
                context_batch,
                device,
                bitmask=bitmask,
                vocab_size=vocab_size,
                identity_logit_offsets=identity_logit_offsets,
                **options,
            )

    def __call__(self, inputs: BatchProcessorInputs) -> None:
        """Chooses a token for each request."""
        if self._is_greedy:
            assert self.greedy is not None
            assert inputs.logit_offsets is None
            self.generated_tokens = self.greedy.choose(inputs.logits)
            self.new_tokens = self.generated_tokens.view(
                self.generated_tokens.dtype, (self.batch_size,)
            )
            return
        if self._states is None:
            super().__call__(inputs)
            return
        tokens = choose_tokens(
            inputs.logits,
            self._states,
            offsets=inputs.logit_offsets,
            vocab_size=self.vocab_size,
        )
        self.new_tokens = Buffer.from_numpy(tokens)
        self.generated_tokens = Buffer.from_numpy(tokens[:, None])


def choose_tokens(
    logits: Buffer,
    states: Sequence[SamplingState],
    *,
    offsets: Buffer | None = None,
    vocab_size: int | None = None,
) -> Tokens:
    """Returns the next token of each request.

    Args:
        logits: ``[tokens, vocabulary]``.
        states: The requests.
        offsets: ``[requests + 1]``, the first token of each request and the end of the
            last, if a request may have several tokens; its last one counts.
        vocab_size: The tokenizer's number of tokens, if it may be smaller than the
            model's: the rest is never chosen.

    Returns:
        ``[requests]``.
    """
    values = on_host(logits)
    if offsets is not None:
        values = values[on_host(offsets)[1:].astype(np.int64) - 1]
    return host.choose_tokens(values[:, :vocab_size], states)


def sampling_states(
    contexts: Sequence[Any], bitmask: npt.NDArray[np.int32] | None = None
) -> list[SamplingState]:
    """Returns what the sampler has to know of each request.

    Args:
        contexts: The requests.
        bitmask: The tokens that grammars allow, ``[requests, words]``, packed as
            xgrammar does; None allows all.
    """
    return [
        _sampling_state(context, None if bitmask is None else bitmask[index])
        for index, context in enumerate(contexts)
    ]


def _sampling_state(
    context: Any, bitmask: npt.NDArray[np.int32] | None
) -> SamplingState:
    params = context.sampling_params
    bias = logit_bias_of(context)
    grammar = context.matcher
    if not isinstance(grammar, AnswerMatcher):
        grammar = None
    # MAX gives each request of a batch a mask; all ones stand for no grammar.
    if bitmask is not None and (bitmask == -1).all():
        bitmask = None
    if (
        params.top_k == 1
        and not params.needs_penalties
        and not params.min_new_tokens
        and not bias
        and grammar is None
        and bitmask is None
    ):
        return GREEDY
    settings = SamplingSettings(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        repetition_penalty=params.repetition_penalty,
        logit_bias=bias,
        min_tokens=params.min_new_tokens,
        end_tokens=frozenset(context.eos_tracker.eos_token_ids),
        seed=params.seed,
    )
    needs_tokens = settings.has_penalties or grammar is not None
    return SamplingState(
        settings=settings,
        prompt_length=prompt_length_of(context),
        position=len(context.tokens),
        tokens=context.tokens.all.copy() if needs_tokens else None,
        grammar=grammar,
        bitmask=bitmask,
    )


def without_sampler_graphs(
    load: Callable[..., tuple[Any, dict[str, Any]]],
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Returns MAX's function that compiles the sampler, which does nothing for a CPU.

    Args:
        load: MAX's ``load_sampler_graphs``.
    """

    def load_unless_cpu(
        session: Any, pipeline_config: Any, device: DeviceRef, *args: Any, **more: Any
    ) -> tuple[Any, dict[str, Any]]:
        if device.is_cpu():
            return no_sampler_graphs()
        return load(session, pipeline_config, device, *args, **more)

    return load_unless_cpu
