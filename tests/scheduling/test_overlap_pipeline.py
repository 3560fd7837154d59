"""MAX's overlap scheduler and captured decode steps give the answers of plain steps."""

from __future__ import annotations

from typing import Any

import pytest
from max.graph import DeviceRef
from PIL import Image

from mllama.max_compat.pipeline import pipeline_model
from mllama.runtime.greedy_sampler import GreedySampler

from .conftest import BATCH, ask
from .harness import NEW_TOKENS, WHOLE, Scheduled
from .overlap_pipeline import overlapped

# The same requests as for this package's own overlap.
from .test_any_traffic import (  # noqa: F401
    test_every_answer_equals_that_of_the_request_run_alone,
)
from .test_faults import test_a_request_can_be_cancelled_at_any_stage  # noqa: F401

Pictures = list[Image.Image]
WHAT = "What is in the picture?"


@pytest.fixture(scope="module", params=["overlapped", "captured", "captured, greedy"])
def tight(request: pytest.FixtureRequest, roomy: Scheduled) -> Scheduled:
    """MAX's overlap pipeline with room for three images of one page."""
    page = roomy.image_cache.storage.params.bytes_per_block
    scheduled = overlapped(
        captures="captured" in request.param,
        max_batch_size=BATCH,
        image_cache_size=4 * page,
    )
    if "greedy" in request.param:
        pipeline = scheduled.pipeline
        pipeline.greedy = GreedySampler.load(
            pipeline.session,
            pipeline_model(pipeline).arch_config.model.text_config.vocab_size,
            pipeline.vocab_size,
            DeviceRef.CPU(),
        )
    return scheduled


def is_captured(scheduled: Scheduled) -> bool:
    return bool(scheduled.config.runtime.device_graph_capture)


@pytest.fixture(autouse=True)
def nothing_stays_pinned(tight: Scheduled) -> Any:
    yield
    tight.run()
    assert tight.blocks.pinned_entries == 0
    assert not tight.blocks._pins


def conversations(pictures: Pictures) -> list[Any]:
    return [
        ask(pictures[0], WHAT),
        ask("Hello"),
        ask(pictures[1], "and", pictures[4], WHAT),
        ask(pictures[3], "Look closely. " * 20),
        ask("Tell me more"),
    ]


@pytest.mark.parametrize("chunk", [5, WHOLE])
def test_answers_of_a_batch_equal_those_of_single_requests(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures, chunk: int
) -> None:
    messages = conversations(pictures)
    expected = [roomy.alone(each) for each in messages]
    tight.forget()
    tight.chunk_size(chunk)
    before = tight.pipeline.greedy_batches
    assert tight.answers(messages) == expected
    assert (tight.pipeline.greedy_batches > before) == bool(tight.pipeline.greedy)
    tight.chunk_size(WHOLE)


def test_a_step_starts_before_the_last_token_is_read(tight: Scheduled) -> None:
    tight.forget()
    request = tight.submit(ask("Hello"))
    tight.step()
    assert tight.pipeline.has_pending_outputs()
    assert not request.token_ids
    tight.step()
    assert len(request.token_ids) == 1
    assert len(request.context.tokens.generated) == 2
    tight.run()
    assert len(request.token_ids) == NEW_TOKENS


def test_decode_steps_are_replayed_and_prefills_are_not(
    tight: Scheduled, pictures: Pictures
) -> None:
    runner = tight.pipeline._graph_capture_runner
    if not is_captured(tight):
        assert runner is None
        return
    assert runner._engine_model.captures >= BATCH
    tight.forget()
    before = runner.replays
    tight.answers([ask(pictures[2], WHAT), ask("Hello")])
    # MAX computes one step more than there are tokens.
    assert NEW_TOKENS - 1 <= runner.replays - before <= NEW_TOKENS
    # The worker's own call captures nothing again.
    captures = runner._engine_model.captures
    tight.pipeline.warmup_graph_capture()
    assert runner._engine_model.captures == captures


def test_sampled_and_penalized_requests_equal_those_of_plain_steps(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    def answers(scheduled: Scheduled) -> list[list[int]]:
        scheduled.forget()
        requests = [
            scheduled.submit(ask(pictures[0], WHAT), top_k=-1, seed=5),
            scheduled.submit(ask("Hello"), presence_penalty=2.0, frequency_penalty=1.0),
            scheduled.submit(ask("Why?"), bias={65: 50.0}),
        ]
        scheduled.run()
        return [request.token_ids for request in requests]

    assert answers(tight) == answers(roomy)


@pytest.mark.parametrize("stage", range(1, 5))
def test_a_batch_that_raises_ends_only_the_request_that_causes_it(
    tight: Scheduled,
    roomy: Scheduled,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    stage: int,
) -> None:
    model = pipeline_model(tight.pipeline)
    tight.forget()
    messages = [ask(pictures[0], WHAT), ask(pictures[1], WHAT), ask("Hello")]
    requests = [tight.submit(each) for each in messages]
    for _ in range(stage):
        tight.step()
    prepare = model.prepare_initial_token_inputs

    def raising(replica_batches: Any, *args: Any, **options: Any) -> Any:
        if any(each is requests[1].context for each in replica_batches[0]):
            raise RuntimeError("a fault")
        return prepare(replica_batches, *args, **options)

    monkeypatch.setattr(model, "prepare_initial_token_inputs", raising)
    tight.run()
    assert requests[1].status == "failed"
    expected = [roomy.alone(each) for each in messages]
    assert requests[0].token_ids == expected[0]
    assert requests[1].token_ids == expected[1][: len(requests[1].token_ids)]
    assert requests[2].token_ids == expected[2]
