"""However a request ends, its images are released and the others keep running."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from mllama.max_compat.pipeline import pipeline_model

from .conftest import BATCH, ask
from .harness import WHOLE, Scheduled

Pictures = list[Image.Image]
WHAT = "What is in the picture?"


@pytest.fixture(autouse=True)
def nothing_stays_pinned(tight: Scheduled) -> Any:
    yield
    tight.run()
    assert tight.blocks.pinned_entries == 0
    assert not tight.blocks._pins


@pytest.mark.parametrize("stage", range(5))
def test_a_request_can_be_cancelled_at_any_stage(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures, stage: int
) -> None:
    """In the queue, just after encoding, between tokens: MAX checks at each step."""
    tight.forget()
    other = tight.submit(ask(pictures[1], WHAT))
    request = tight.submit(ask(pictures[2 + stage], pictures[0], WHAT))
    for _ in range(stage):
        tight.step()
    tight.cancel(request)
    tight.run()
    assert request.status == "cancelled"
    assert other.token_ids == roomy.alone(ask(pictures[1], WHAT))


@pytest.mark.parametrize("stage", range(1, 5))
def test_a_preempted_request_gives_the_same_answer(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures, stage: int
) -> None:
    tight.forget()
    messages = [ask(picture, WHAT) for picture in pictures[:3]]
    requests = [tight.submit(each) for each in messages]
    for _ in range(stage):
        tight.step()
    tight.preempt(requests[0])
    # This takes the room that was left, so the preempted request has to wait for it.
    messages.append(ask(pictures[7], WHAT))
    requests.append(tight.submit(messages[-1]))
    tight.run()
    assert [r.token_ids for r in requests] == [roomy.alone(each) for each in messages]


def test_a_preempted_request_fits_beside_one_whose_prefill_has_begun(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    """A request pins its images until it ends, so both always fit together."""
    long = "Look closely. " * 20
    messages = [
        ask(pictures[0], "and", pictures[4], WHAT),
        ask(pictures[8], long, WHAT),
    ]
    tight.forget()
    first = tight.submit(messages[0])
    tight.step()
    tight.chunk_size(5)
    try:
        second = tight.submit(messages[1])
        tight.step()
        tight.step()
        assert first.token_ids
        assert second.context.tokens.processed_length
        tight.preempt(first)
        tight.run()
    finally:
        tight.chunk_size(WHOLE)
    answers = [request.token_ids for request in (first, second)]
    assert answers == [roomy.alone(each) for each in messages]


def test_requests_wait_while_the_whole_image_cache_is_pinned(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    tight.forget()
    messages = [ask(*pictures[i : i + 3 - i % 3], WHAT) for i in range(BATCH)]
    requests = [tight.submit(each) for each in messages]
    most_pinned = 0
    while any(request.status is None for request in requests):
        tight.step()
        pinned = [entry for entry in tight.blocks._entries.values() if entry.pinned_by]
        most_pinned = max(most_pinned, sum(len(entry.pages) for entry in pinned))
        assert tight.blocks.num_pages == 4
    assert 0 < most_pinned <= 3
    assert [r.token_ids for r in requests] == [roomy.alone(each) for each in messages]


def test_a_mixed_batch_gets_the_same_answers_as_one_by_one(
    roomy: Scheduled, pictures: Pictures
) -> None:
    """Text only, one to four tiles, several images, prefill together with decode."""
    messages = [
        ask("Hello"),
        ask(pictures[0], WHAT),
        ask(pictures[1], WHAT),
        ask(pictures[2], "Where is the star?"),
        ask(pictures[3], pictures[4], "Which one shows a cross?"),
        ask(WHAT, pictures[5]),
        ask("One:", pictures[6], "Two:", pictures[7], "Compare."),
        [{"role": "system", "content": "Be brief."}, *ask(pictures[0], WHAT)],
    ]
    assert len(messages) == BATCH
    expected = [roomy.alone(each) for each in messages]
    roomy.forget()
    assert roomy.answers(messages) == expected
    roomy.forget()
    requests = []
    for each in messages:  # they join and leave one by one
        requests.append(roomy.submit(each))
        roomy.step()
    roomy.run()
    assert [request.token_ids for request in requests] == expected


def test_a_step_prefills_at_most_max_ce_batch_size_requests(
    roomy: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roomy.admission, "_max_ce_batch_size", 2)
    roomy.forget()
    requests = [roomy.submit(ask(f"Number {i}?")) for i in range(5)]
    for begun in (2, 4, 5):
        roomy.step()
        assert sum(bool(request.token_ids) for request in requests) == begun
    roomy.run()


def test_a_request_that_fails_leaves_the_others_running(
    tight: Scheduled,
    roomy: Scheduled,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tight.forget()
    unseen = Image.new("RGB", (50, 50), "red")
    messages = [ask(pictures[0], WHAT), ask("Hello"), ask(unseen, WHAT)]
    expected = [roomy.alone(each) for each in messages]
    requests = [tight.submit(each) for each in messages]
    bad = requests[2].context.images[0].image_hash
    runner = pipeline_model(tight.pipeline).image_encoder
    encode = runner._encode

    def failing(images: Any, tiles: int) -> None:
        if any(image.hash == bad for image in images):
            raise RuntimeError("out of memory")
        encode(images, tiles)

    monkeypatch.setattr(runner, "_encode", failing)
    tight.run()
    assert [request.status for request in requests[:2]] == ["maximum_length"] * 2
    assert requests[2].status == "failed"
    assert [request.token_ids for request in requests] == [*expected[:2], []]
    monkeypatch.undo()
    assert tight.answers(messages) == expected
