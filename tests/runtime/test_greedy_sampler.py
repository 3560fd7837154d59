"""Greedy batches on a GPU: the graph chooses what the host's sampler chooses.

The graph runs on a CPU here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import CPU, Buffer
from max.engine import InferenceSession
from max.graph import DeviceRef
from max.pipelines.context.logit_processors_type import BatchProcessorInputs

from mllama.errors import MllamaError
from mllama.max_compat.model import FusedSamplingProcessor
from mllama.runtime.greedy_sampler import GreedySampler, is_plainly_greedy
from mllama.runtime.host_sampler import HostSamplingProcessor, choose_tokens
from mllama.runtime.pipeline import _use_greedy_sampler
from mllama.sampling.state import GREEDY
from mllama.utils.bfloat16 import to_bfloat16
from tests.runtime.test_host_sampler import request

VOCABULARY = 1000

pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module", params=[None, 900], ids=["all", "first 900"])
def limit(request: pytest.FixtureRequest) -> int | None:
    """The tokenizer's number of tokens."""
    value: int | None = request.param
    return value


@pytest.fixture(scope="module")
def greedy(limit: int | None) -> GreedySampler:
    session = InferenceSession(devices=[CPU()])
    return GreedySampler.load(session, VOCABULARY, limit, DeviceRef.CPU())


def rounded(values: Any) -> Any:
    """Rounds values to ``bfloat16``, which makes many of them equal."""
    bits = to_bfloat16(np.asarray(values, np.float32)).astype(np.uint32)
    return (bits << 16).view(np.float32)


def batches() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(64, VOCABULARY)).astype(np.float32)
    # Between 16 and 32, the next larger bfloat16 is an eighth away.
    ties = rounded(16 + logits)
    assert np.mean((ties == ties.max(-1, keepdims=True)).sum(-1) > 1) > 0.2
    last = np.zeros((2, VOCABULARY), np.float32)
    last[0, -1], last[1, 899] = 1, 1
    return {
        "one request": logits[:1],
        "many requests": logits,
        "equal logits": ties,
        "all equal": np.zeros((3, VOCABULARY), np.float32),
        "the ends": last,
        "minus infinity": np.where(logits > 2, -np.inf, -logits).astype(np.float32),
        "very large": (logits * 1e37).astype(np.float32),
    }


@pytest.mark.parametrize("name", batches())
def test_the_graph_chooses_the_hosts_tokens(
    greedy: GreedySampler, limit: int | None, name: str
) -> None:
    logits = Buffer.from_numpy(batches()[name])
    tokens = greedy.choose(logits)
    assert tokens.dtype.to_numpy() == np.int64
    assert tokens.shape == (logits.shape[0], 1)
    expected = choose_tokens(logits, [GREEDY] * logits.shape[0], vocab_size=limit)
    np.testing.assert_array_equal(tokens.to_numpy()[:, 0], expected)


def test_nan_logits_still_give_a_valid_token(
    greedy: GreedySampler, limit: int | None
) -> None:
    logits = np.full((2, VOCABULARY), np.nan, np.float32)
    logits[1, 5] = 1
    tokens = greedy.choose(Buffer.from_numpy(logits)).to_numpy()
    assert ((tokens >= 0) & (tokens < (limit or VOCABULARY))).all()


class Gpu:
    """What a sampling processor sees of a GPU."""

    is_host = False


class Recorded(Exception):
    """MAX's own sampler was asked."""


@pytest.fixture
def processor(greedy: GreedySampler, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a processor for a batch on a GPU; MAX's own raises instead."""

    def refuse(*_: Any, **__: Any) -> None:
        raise Recorded

    monkeypatch.setattr(FusedSamplingProcessor, "__init__", refuse)
    kind = HostSamplingProcessor.with_greedy(greedy)

    def make(batch: list[Any], **options: Any) -> Any:
        device: Any = Gpu()
        return kind(object(), None, batch, device, **options)

    return make


def plain(bias: dict[int, float] | None = None, **settings: Any) -> Any:
    context = request(bias, **settings)
    context.log_probabilities = 0
    context.matcher = None
    return context


def test_a_greedy_batch_needs_no_sampler_of_maxs(
    processor: Any, greedy: GreedySampler
) -> None:
    batch = [plain(), plain(temperature=0.0, top_k=-1)]
    chosen = processor(batch)
    logits = Buffer.from_numpy(batches()["many requests"][:2])
    sampled, offsets = chosen.logits_for_sampling(
        logits=logits, next_token_logits=None, logit_offsets=None
    )
    chosen(
        BatchProcessorInputs(logits=sampled, logit_offsets=offsets, context_batch=batch)
    )
    expected = greedy.choose(logits).to_numpy()
    np.testing.assert_array_equal(chosen.generated_tokens.to_numpy(), expected)
    np.testing.assert_array_equal(chosen.new_tokens.to_numpy(), expected[:, 0])


def logged() -> Any:
    context = plain()
    context.log_probabilities = 1
    return context


def formatted() -> Any:
    context = plain()
    context.matcher = object()
    return context


@pytest.mark.parametrize(
    "other",
    [
        lambda: plain(top_k=-1),
        lambda: plain(top_k=2),
        lambda: plain(presence_penalty=1.0),
        lambda: plain(frequency_penalty=1.0),
        lambda: plain(repetition_penalty=1.5),
        lambda: plain(min_new_tokens=2),
        lambda: plain(logits_processors=[lambda _: None]),
        lambda: plain({3: 1.0}),
        logged,
        formatted,
    ],
)
def test_maxs_sampler_gets_every_other_batch(processor: Any, other: Any) -> None:
    assert is_plainly_greedy(plain())
    assert not is_plainly_greedy(other())
    with pytest.raises(Recorded):
        processor([plain(), other()])


def test_maxs_sampler_gets_batches_with_a_grammar(processor: Any) -> None:
    with pytest.raises(Recorded):
        processor([plain()], bitmask=np.full((1, 32), -1, np.int32))


def test_without_the_option_maxs_sampler_gets_greedy_batches(processor: Any) -> None:
    device: Any = Gpu()
    with pytest.raises(Recorded):
        HostSamplingProcessor(object(), None, [plain()], device)


def test_a_session_is_asked_for_the_tokenizers_tokens_at_most() -> None:
    graphs: list[Any] = []

    def load(graph: Any) -> Any:
        graphs.append(graph)
        return SimpleNamespace(execute=None)

    session: Any = SimpleNamespace(load=load)
    GreedySampler.load(session, 16, 99, DeviceRef.GPU())
    assert "gpu" in str(graphs[0].inputs[0].type.device)


def test_a_sampler_on_the_host_is_refused() -> None:
    pipeline: Any = SimpleNamespace(_pipeline_model=None, _sampler_device=CPU())
    with pytest.raises(MllamaError, match="--sample-on-host exclude each other"):
        _use_greedy_sampler(pipeline)
