"""A prompt's log probabilities are the same however MAX schedules the request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllama.max_compat.pipeline import pipeline_model
from mllama.max_model.sampling_context import LogProbabilityCounts

from .conftest import ask
from .harness import WHOLE, Request, Scheduled

PROMPT = LogProbabilityCounts(prompt=3)
BOTH = LogProbabilityCounts(answer=2, prompt=3)
ANSWER = LogProbabilityCounts(answer=2)
TOLERANCE = 1e-4
WHAT = "What is in the picture?"


@dataclass
class Found:
    """What a request got for its prompt and for its answer, as arrays."""

    prompt: np.ndarray
    tops: list[dict[int, float]]
    answer: np.ndarray

    def check(self, other: Found) -> None:
        """Compares it with that of the same request, computed in another way."""
        np.testing.assert_allclose(self.prompt, other.prompt, atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(self.answer, other.answer, atol=TOLERANCE, rtol=0)
        for mine, expected in zip(self.tops, other.tops, strict=True):
            np.testing.assert_allclose(
                sorted(mine.values()), sorted(expected.values()), atol=TOLERANCE, rtol=0
            )


def found(request: Request, counts: LogProbabilityCounts) -> Found:
    """Checks the form of a request's log probabilities and returns them."""
    prompt = request.context.tokens.all[: request.prompt_length]
    entries = [
        (token, value, top)
        for each in request.log_probabilities
        for token, value, top in zip(
            each.sampled_token_ids,
            each.token_log_probabilities,
            each.top_log_probabilities,
            strict=True,
        )
    ]
    # Image placeholders have no logits.
    scored = [
        t for t in prompt[1:].tolist() if t not in request.context.vision_token_ids
    ]
    wanted = list(scored) if counts.prompt is not None else []
    if counts.answer is not None:
        wanted += request.token_ids
    assert [token for token, _, _ in entries] == wanted
    size = len(scored) if counts.prompt is not None else 0
    for place, (token, value, top) in enumerate(entries):
        count = counts.prompt if place < size else counts.answer
        assert top[token] == value
        assert count is not None
        assert len(top) == count + (token not in list(top)[:count])
    values = np.array([value for _, value, _ in entries])
    return Found(values[:size], [top for _, _, top in entries[:size]], values[size:])


def prompts(pictures: list[Image.Image]) -> list[Any]:
    return [
        ask("Number 1"),
        ask(pictures[0], WHAT),
        ask("Look:", pictures[1], "and", pictures[2], "what do they have in common?"),
        ask("No picture at all, " * 20),
    ]


@pytest.fixture(autouse=True)
def nothing_stays(tight: Scheduled) -> Iterator[None]:
    yield
    tight.run()
    assert not pipeline_model(tight.pipeline)._prompt_log_probabilities._found


@pytest.fixture(scope="module")
def expected(roomy: Scheduled, pictures: list[Image.Image]) -> list[Found]:
    """Those of each prompt alone, prefilled in one step."""
    results = []
    for messages in prompts(pictures):
        roomy.forget()
        request = roomy.submit(messages, counts=BOTH)
        roomy.run()
        results.append(found(request, BOTH))
    return results


def submit_all(scheduled: Scheduled, pictures: list[Image.Image]) -> list[Request]:
    return [scheduled.submit(each, counts=BOTH) for each in prompts(pictures)]


def check_all(requests: list[Request], expected: list[Found]) -> None:
    for request, other in zip(requests, expected, strict=True):
        found(request, BOTH).check(other)


def test_a_batch_changes_nothing(
    tight: Scheduled, expected: list[Found], pictures: list[Image.Image]
) -> None:
    tight.forget()
    requests = submit_all(tight, pictures)
    tight.run()
    check_all(requests, expected)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_chunks_change_nothing(
    tight: Scheduled, expected: list[Found], pictures: list[Image.Image], size: int
) -> None:
    tight.forget()
    tight.chunk_size(size)
    try:
        requests = submit_all(tight, pictures)
        tight.run()
    finally:
        tight.chunk_size(WHOLE)
    check_all(requests, expected)


@pytest.mark.parametrize("most", [1, 7, 50])
def test_a_step_returns_few_logits(
    tight: Scheduled,
    expected: list[Found],
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    """However many requests ask; those that don't are prefilled whole."""
    tight.forget()
    model = pipeline_model(tight.pipeline)
    execute, rows = model.execute, []

    def recording(model_inputs: Any) -> Any:
        rows.append(sum(each.following.size for each in model_inputs.prompt_logits))
        return execute(model_inputs=model_inputs)

    monkeypatch.setattr(model, "execute", recording)
    monkeypatch.setattr(tight.admission, "max_prompt_logits", most)
    others = [tight.submit(ask(f"Other {number}, " * 20)) for number in range(2)]
    requests = submit_all(tight, pictures)
    tight.step()
    assert all(other.token_ids for other in others)
    tight.run()
    check_all(requests, expected)
    assert max(rows) <= most
    assert sum(rows) == sum(each.prompt.size for each in expected)


def test_requests_that_ask_for_other_things_share_a_batch(
    tight: Scheduled, roomy: Scheduled, expected: list[Found], pictures: Any
) -> None:
    tight.forget()
    messages = prompts(pictures)[1]
    kinds = [PROMPT, LogProbabilityCounts(), BOTH, ANSWER, LogProbabilityCounts(0, 0)]
    requests = [tight.submit(messages, counts=counts) for counts in kinds]
    tight.run()
    for request, counts in zip(requests, kinds, strict=True):
        got = found(request, counts)
        if counts.prompt is not None:
            np.testing.assert_allclose(got.prompt, expected[1].prompt, atol=TOLERANCE)
        if counts.answer is not None:
            np.testing.assert_allclose(got.answer, expected[1].answer, atol=TOLERANCE)
    assert requests[1].log_probabilities == []
    assert len({tuple(request.token_ids) for request in requests}) == 1
    assert [requests[0].token_ids] == [roomy.alone(messages)]


def test_a_cached_prefix_hides_no_token(
    tight: Scheduled, pictures: list[Image.Image], roomy: Scheduled
) -> None:
    messages = ask(pictures[3], "Look closely at the picture. " * 40)
    tight.forget()
    roomy.forget()
    alone = roomy.submit(messages, counts=BOTH)
    roomy.run()
    plain = tight.submit(messages)
    tight.run()
    requests = []
    for _ in range(2):
        requests.append(tight.submit(messages, counts=BOTH))
        tight.run()
    after = tight.submit(messages, counts=ANSWER)
    tight.run()
    for request in requests:
        found(request, BOTH).check(found(alone, BOTH))
        assert not request.context.cached_prefix_length
    assert after.context.cached_prefix_length > 0
    assert plain.token_ids == requests[1].token_ids == after.token_ids


def test_its_own_prompt_is_cached_for_others(
    tight: Scheduled, pictures: list[Image.Image]
) -> None:
    messages = ask(pictures[4], "Look closely at the picture. " * 40)
    tight.forget()
    request = tight.submit(messages, counts=PROMPT)
    tight.run()
    after = tight.submit(messages)
    tight.run()
    assert after.context.cached_prefix_length > 0
    assert after.token_ids == request.token_ids


@pytest.mark.parametrize("stage", [1, 2, 4])
def test_a_preemption_repeats_nothing(
    tight: Scheduled, expected: list[Found], pictures: list[Image.Image], stage: int
) -> None:
    """After the prompt's log probabilities came, with the first token."""
    tight.forget()
    requests = submit_all(tight, pictures)
    for _ in range(stage):
        tight.step()
    assert all(request.token_ids for request in requests[1:2])
    for request in requests[1:]:
        tight.preempt(request)
    tight.run()
    check_all(requests, expected)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_prefill_that_starts_again_loses_nothing(
    tight: Scheduled, expected: list[Found], pictures: list[Image.Image], stage: int
) -> None:
    messages = prompts(pictures)[2]
    tight.forget()
    tight.chunk_size(4)
    try:
        request = tight.submit(messages, counts=BOTH)
        for _ in range(stage):
            tight.step()
        assert not request.token_ids
        assert request.context.tokens.processed_length
        tight.restart(request)
        assert not request.context.tokens.processed_length
        tight.run()
    finally:
        tight.chunk_size(WHOLE)
    found(request, BOTH).check(expected[2])


def test_a_request_that_is_cancelled_leaves_nothing(
    tight: Scheduled, expected: list[Found], pictures: list[Image.Image]
) -> None:
    tight.forget()
    tight.chunk_size(4)
    try:
        request = tight.submit(prompts(pictures)[3], counts=BOTH)
        other = tight.submit(prompts(pictures)[0], counts=BOTH)
        tight.step()
        tight.cancel(request)
        tight.run()
    finally:
        tight.chunk_size(WHOLE)
    assert request.status == "cancelled"
    found(other, BOTH).check(expected[0])


def test_a_batch_that_fails_is_computed_again(
    tight: Scheduled,
    expected: list[Found],
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tight.forget()
    model = pipeline_model(tight.pipeline)
    execute = model.execute

    def failing(model_inputs: Any) -> Any:
        outputs = execute(model_inputs=model_inputs)
        if len(model_inputs.batch) > 1 and model_inputs.prompt_logits:
            raise RuntimeError("made to fail after the log probabilities")
        return outputs

    monkeypatch.setattr(model, "execute", failing)
    requests = submit_all(tight, pictures)
    tight.run()
    check_all(requests, expected)
