"""Greedy batches bypass MAX's sampler; all others use it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import CPU, Buffer
from max.pipelines.context import SamplingParams
from max.pipelines.context.logit_processors_type import BatchProcessorInputs

from mllama.runtime.greedy_sampler import GreedySamplingProcessor

SAMPLED = 7
"""The token that the stand-in for MAX's sampler returns."""


def request(**settings: Any) -> Any:
    return SimpleNamespace(
        sampling_params=SamplingParams(**{"top_k": 1, **settings}),
        min_tokens=settings.get("min_new_tokens", 0),
        tokens=np.zeros(1, np.int64),
        request_id="one",
    )


def chosen(
    batch: list[Any], logits: Any, offsets: Any = None, **sampling: bool
) -> list[int]:
    def sampler(*_: Any) -> list[Buffer]:
        tokens = np.full(len(batch), SAMPLED, np.int64)
        return [
            Buffer.from_numpy(tokens),
            Buffer.from_numpy(tokens[:, None]),
            Buffer.from_numpy(np.zeros(1, np.uint64)),
        ]

    asked = {"enable_penalties": False, "enable_min_tokens": False} | sampling
    processor = GreedySamplingProcessor(
        sampler=sampler,
        pipeline_config=SimpleNamespace(sampling=SimpleNamespace(**asked)),
        context_batch=batch,
        device=CPU(),
        pinned_new_tokens=None,
        vocab_size=np.shape(logits)[-1],
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


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"top_k": -1}])
def test_one_sampling_request_makes_the_whole_batch_use_maxs_sampler(
    settings: Any,
) -> None:
    batch = [request(), request(**settings)]
    assert chosen(batch, np.zeros((2, 9))) == [SAMPLED] * 2


def test_requests_that_max_warns_about_use_maxs_sampler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert chosen([request(frequency_penalty=0.5)], np.zeros((1, 9))) == [SAMPLED]
    assert "Penalties are provided" in caplog.text
    assert chosen([request(min_new_tokens=2)], np.zeros((1, 9))) == [SAMPLED]
    assert "min_tokens is provided" in caplog.text
