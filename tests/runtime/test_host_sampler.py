"""MAX's batches are sampled on the host, each request by its own settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import CPU, Buffer
from max.graph import DeviceRef
from max.pipelines.context import EOSTracker, SamplingParams
from max.pipelines.context.logit_processors_type import BatchProcessorInputs

from mllama.max_model.sampling_context import PROMPT_LENGTH, set_logit_bias
from mllama.runtime import host_sampler
from mllama.runtime.host_sampler import HostSamplingProcessor, sampling_states
from mllama.sampling.state import GREEDY

PROMPT, ANSWER, END = [5, 6], [3, 3], 8


class Tokens:
    """A stand-in for the tokens of MAX's context."""

    def __init__(self) -> None:
        self.all = np.array(PROMPT + ANSWER)

    def __len__(self) -> int:
        return len(self.all)


def request(bias: dict[int, float] | None = None, **settings: Any) -> Any:
    context = SimpleNamespace(
        sampling_params=SamplingParams(**{"top_k": 1, **settings}),
        tokens=Tokens(),
        request_id="one",
        matcher=None,
        eos_tracker=EOSTracker(eos_token_ids={END}),
        extra_model_args={PROMPT_LENGTH: np.array([len(PROMPT)])},
    )
    if bias is not None:
        set_logit_bias(context, bias)
    return context


def chosen(
    batch: list[Any],
    logits: Any,
    offsets: Any = None,
    *,
    bitmask: Any = None,
    vocab_size: int | None = None,
) -> list[int]:
    processor = HostSamplingProcessor(
        sampler=object(),
        pipeline_config=None,
        context_batch=batch,
        device=CPU(),
        pinned_new_tokens=None,
        vocab_size=vocab_size,
        bitmask=bitmask,
    )
    sample_logits, sample_offsets = processor.logits_for_sampling(
        logits=Buffer.from_numpy(np.asarray(logits, np.float32)),
        next_token_logits=None,
        logit_offsets=None if offsets is None else Buffer.from_numpy(offsets),
    )
    processor(
        BatchProcessorInputs(
            logits=sample_logits, logit_offsets=sample_offsets, context_batch=batch
        )
    )
    assert processor.new_tokens is not None
    tokens = processor.new_tokens.to_numpy()
    assert tokens.dtype == np.int64
    generated = processor.generated_tokens.to_numpy()
    assert generated.tolist() == tokens[:, None].tolist()
    return tokens.tolist()


def test_greedy_chooses_the_likeliest_token_and_the_first_of_equals() -> None:
    logits = [[0, 3, -1, 3], [5, 1, 1, 1], [-np.inf, -4, -3, -np.inf]]
    assert chosen([request()] * 3, logits) == [1, 0, 2]


def test_only_the_last_logits_of_each_request_count() -> None:
    logits = np.eye(5)[[4, 1, 2, 3]]
    assert chosen([request()] * 2, logits, np.array([0, 3, 4], np.uint32)) == [2, 3]


def test_zero_temperature_is_greedy() -> None:
    assert chosen([request(top_k=-1, temperature=0)], [[0, 1, 0]]) == [1]


def test_nan_logits_still_give_a_valid_token() -> None:
    (token,) = chosen([request()], np.full((1, 9), np.nan))
    assert 0 <= token < 9


def test_each_request_of_a_batch_has_its_own_settings() -> None:
    logits = np.zeros((4, 9))
    logits[:, 3] = 2
    batch = [
        request(),
        request(presence_penalty=1.5, frequency_penalty=0.5),
        request(bias={7: 3.0}),
        request(top_k=-1, temperature=0.01),
    ]
    assert chosen(batch, logits) == [3, 0, 7, 3]


def test_repetition_penalty_counts_the_prompt_and_the_others_only_the_answer() -> None:
    logits = np.zeros((1, 9))
    logits[0, 5], logits[0, 0] = 2, 1.5
    assert chosen([request(repetition_penalty=2.0)], logits) == [0]
    assert chosen([request(presence_penalty=2.0)], logits) == [5]


def test_an_answer_ends_only_after_min_tokens() -> None:
    logits = np.eye(9)[[END]] + np.eye(9)[[1]] / 2
    assert chosen([request(min_new_tokens=3)], logits) == [1]
    assert chosen([request(min_new_tokens=2)], logits) == [END]


def test_the_prompt_length_is_the_requests_own_after_a_preemption() -> None:
    """MAX then counts the answer so far as prompt."""
    preempted = request(min_new_tokens=3, presence_penalty=2.0)
    preempted.tokens.prompt_length = len(preempted.tokens)
    (state,) = sampling_states([preempted])
    assert (state.prompt_length, state.position) == (2, 4)


@pytest.mark.parametrize("sampling", [{}, {"top_k": -1, "temperature": 0.05}])
def test_a_bitmask_allows_tokens_by_their_bits(sampling: Any) -> None:
    logits = np.tile(np.arange(70.0), (3, 1))
    bitmask = np.full((3, 3), -1, np.int32)
    bitmask[1] = [0, 1 << 3, 0]
    bitmask[2] = [0, -(1 << 31), 0]
    batch = [request(**sampling)] * 3
    assert chosen(batch, logits, bitmask=bitmask)[1:] == [35, 63]
    assert chosen([request()], logits[:1], bitmask=bitmask[:1]) == [69]


def test_tokens_beyond_the_tokenizers_are_never_chosen() -> None:
    logits = np.arange(9.0)[None]
    assert chosen([request()], logits, vocab_size=6) == [5]
    assert chosen([request()], logits, vocab_size=20) == [8]


def test_plain_greedy_requests_share_a_state() -> None:
    plain, sampling, penalized = sampling_states(
        [request(), request(top_k=-1), request(frequency_penalty=1)]
    )
    assert plain is GREEDY
    assert sampling.tokens is None
    assert penalized.tokens is not None


def test_the_tokens_so_far_are_kept_as_they_are_now() -> None:
    """MAX appends to them while a step runs ahead."""
    penalized = request(frequency_penalty=1)
    (state,) = sampling_states([penalized])
    penalized.tokens.all[0] = 77
    assert state.tokens is not None
    assert state.tokens.tolist() == PROMPT + ANSWER


def test_a_cpu_compiles_no_sampler_and_a_gpu_compiles_maxs() -> None:
    calls: list[Any] = []

    def load(*arguments: Any) -> Any:
        calls.append(arguments)
        return "artifacts", {"sampler": "compiled"}

    loading = host_sampler.without_sampler_graphs(load)
    artifacts, samplers = loading("session", "config", DeviceRef.CPU(), 9)
    assert not calls
    assert not artifacts.compiled
    assert set(samplers) == {"sampler", "sampler_bitmask"}
    assert loading("session", "config", DeviceRef.GPU(), 9)[1] == {
        "sampler": "compiled"
    }
    assert calls == [("session", "config", DeviceRef.GPU(), 9)]
