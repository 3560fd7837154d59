"""Log probabilities of prompts equal those of transformers, to 1e-4."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mllama import LLM
from mllama.max_model.sampling_context import LogProbabilityCounts
from tests.reference.cases import Case, case, case_names
from tests.reference.checkpoints import checkpoint
from tests.reference.oracle import Reference, reference
from tests.scheduling.harness import WHOLE, Request, Scheduled

TOP = 20
COUNTS = LogProbabilityCounts(answer=TOP, prompt=TOP)
TOLERANCE = 1e-4
STEPS = 4


@pytest.fixture(scope="module")
def scheduled() -> Scheduled:
    return Scheduled(
        model_path=checkpoint(), quantization_encoding="float32", max_batch_size=4
    )


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return reference(checkpoint())


@pytest.fixture(autouse=True)
def nothing_is_cached(scheduled: Scheduled) -> Iterator[None]:
    scheduled.forget()
    yield
    scheduled.chunk_size(WHOLE)


def submit(scheduled: Scheduled, sample: Case) -> Request:
    return scheduled.submit(list(sample.messages), STEPS + 1, counts=COUNTS)


def check(request: Request, sample: Case, oracle: Reference) -> None:
    """Compares each log probability of a prompt and its answer."""
    prompt = oracle.prompt(sample.messages).token_ids
    decoded = oracle.decode(sample.messages, STEPS)
    # Image placeholders have no logits.
    scored = np.flatnonzero(prompt[1:] != request.context.vision_token_ids[0])
    tokens = [*prompt[1 + scored].tolist(), *decoded.token_ids]
    logits = np.concatenate([oracle.prefill(sample.messages)[scored], decoded.logits])
    expected = log_softmax(logits)
    first, *others = request.log_probabilities
    assert len(first.sampled_token_ids) == len(scored) + 1
    assert [len(each.sampled_token_ids) for each in others] == [1] * STEPS
    values = np.concatenate([e.token_log_probabilities for e in (first, *others)])
    tops = [top for each in (first, *others) for top in each.top_log_probabilities]
    assert [t for e in (first, *others) for t in e.sampled_token_ids] == tokens
    np.testing.assert_allclose(
        values, expected[np.arange(len(tokens)), tokens], atol=TOLERANCE, rtol=0
    )
    for row, top in zip(expected, tops, strict=True):
        likeliest = list(top.values())[:TOP]
        np.testing.assert_allclose(
            likeliest, np.sort(row)[::-1][:TOP], atol=TOLERANCE, rtol=0
        )
        for token, value in top.items():
            assert value == pytest.approx(row[token], abs=TOLERANCE)


@pytest.fixture(scope="module")
def tile(scheduled: Scheduled) -> int:
    model = scheduled.pipeline._pipeline_model
    return int(model.arch_config.model.vision_config.image_size)


@pytest.mark.parametrize("name", case_names())
def test_each_prompt_equals_the_reference(
    scheduled: Scheduled, oracle: Reference, tile: int, name: str
) -> None:
    sample = case(name, tile)
    request = submit(scheduled, sample)
    scheduled.run()
    check(request, sample, oracle)


@pytest.mark.parametrize("size", [1, 7])
def test_a_batch_in_chunks_equals_the_reference(
    scheduled: Scheduled, oracle: Reference, tile: int, size: int
) -> None:
    scheduled.chunk_size(size)
    samples = [case(name, tile) for name in ("one_tile", "text_only", "tall")]
    requests = [submit(scheduled, sample) for sample in samples]
    scheduled.run()
    for request, sample in zip(requests, samples, strict=True):
        check(request, sample, oracle)


def test_few_logits_in_a_step_equal_the_reference(
    scheduled: Scheduled,
    oracle: Reference,
    tile: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduled.admission, "max_prompt_logits", 5)
    samples = [case(name, tile) for name in ("two_images_in_one_turn", "text_only")]
    requests = [submit(scheduled, sample) for sample in samples]
    scheduled.run()
    for request, sample in zip(requests, samples, strict=True):
        check(request, sample, oracle)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(checkpoint(), quantization_encoding="float32", quiet=True) as model:
        yield model


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    values: np.ndarray = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return values


def test_the_whole_distribution_of_tokens_in_python_equals_the_reference(
    llm: LLM, oracle: Reference, tile: int
) -> None:
    """Token ids in, and the log probabilities of the whole vocabulary out."""
    sample = case("text_only", tile)
    tokens = oracle.prompt(sample.messages).token_ids.tolist()
    expected = log_softmax(oracle.prefill(sample.messages))
    output = llm.complete(tokens, max_new_tokens=0, prompt_logprobs=-1)
    assert output.prompt_token_ids == tokens
    assert output.token_ids == []
    found = output.prompt_logprobs
    assert found is not None
    assert len(found) == len(tokens)
    assert found[0] is None
    for row, token, entry in zip(expected, tokens[1:], found[1:], strict=False):
        assert entry is not None
        assert entry.token_id == token
        assert entry.logprob == entry.top[token]
        values = [entry.top[each] for each in range(len(row))]
        np.testing.assert_allclose(values, row, atol=TOLERANCE, rtol=0)
        assert list(entry.top.values()) == sorted(values, reverse=True)


def test_a_chat_with_an_image_in_python_equals_the_reference(
    llm: LLM, oracle: Reference, tile: int
) -> None:
    sample = case("one_tile", tile)
    prompt = oracle.prompt(sample.messages).token_ids
    expected = log_softmax(oracle.prefill(sample.messages))
    output = llm.chat(
        list(sample.messages), max_new_tokens=3, logprobs=0, prompt_logprobs=0
    )
    assert output.prompt_token_ids == prompt.tolist()
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == len(prompt)
    scored = 0
    for row, token, entry in zip(
        expected, prompt[1:].tolist(), output.prompt_logprobs[1:], strict=False
    ):
        assert (entry is None) == (token >= len(row))
        if entry is not None:
            scored += 1
            assert entry.top == {}
            assert entry.logprob == pytest.approx(row[token], abs=TOLERANCE)
    assert scored == len(prompt) - 1 - len(sample.tiles)
    assert output.logprobs is not None
    own = expected[-1, output.token_ids[0]]
    assert output.logprobs[0].logprob == pytest.approx(own, abs=TOLERANCE)
