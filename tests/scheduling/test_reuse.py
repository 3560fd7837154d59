"""An image is encoded once, in whichever request and place it appears."""

from __future__ import annotations

import pytest
from max.pipelines.context.exceptions import InputError
from PIL import Image

from .conftest import ask
from .harness import NEW_TOKENS, WHOLE, Scheduled

Pictures = list[Image.Image]
WHAT = "What is in the picture?"


def with_others_cached(tight: Scheduled, pictures: Pictures) -> Scheduled:
    """Fills the small image cache with pictures that the test doesn't use."""
    tight.answers([ask(picture, WHAT) for picture in pictures[-3:]])
    tight.forget()
    return tight


@pytest.fixture
def fresh(tight: Scheduled, pictures: Pictures) -> Scheduled:
    return with_others_cached(tight, pictures)


def test_hits_and_misses_are_counted_once_per_image(roomy: Scheduled) -> None:
    a, b = (Image.new("RGB", (70, 70), color) for color in ("pink", "navy"))
    before = roomy.image_cache.stats()
    roomy.alone(ask(a, a, b, WHAT))
    roomy.alone(ask(a, "and", b, WHAT))
    after = roomy.image_cache.stats()
    assert after.misses - before.misses == 2
    assert after.hits - before.hits == 3
    assert after.pinned == 0


def encoded(scheduled: Scheduled, *conversations: list[dict[str, object]]) -> int:
    before = scheduled.image_cache.stats().misses
    scheduled.answers(conversations)
    return int(scheduled.image_cache.stats().misses - before)


def test_a_second_question_about_an_image_encodes_nothing(
    fresh: Scheduled, pictures: Pictures
) -> None:
    assert encoded(fresh, ask(pictures[0], WHAT)) == 1
    assert encoded(fresh, ask(pictures[0], "Which colors are there?")) == 0
    chat = ask(pictures[0], WHAT)
    chat += [{"role": "assistant", "content": "A square."}, *ask("Which color?")]
    assert encoded(fresh, chat) == 0


def test_concurrent_requests_share_an_image(
    fresh: Scheduled, pictures: Pictures
) -> None:
    assert encoded(fresh, *[ask(pictures[0], f"{i}? {WHAT}") for i in range(5)]) == 1


def test_an_image_in_another_run_of_images_is_copied(
    roomy: Scheduled, tight: Scheduled, pictures: Pictures
) -> None:
    """Beside another picture, the same keys and values are part of another entry."""
    a, b = (Image.new("RGB", (90, 70), color) for color in ("orange", "teal"))
    assert encoded(roomy, ask(a, WHAT)) == 1
    assert encoded(roomy, ask(a, b, WHAT)) == 1
    for messages in (ask(b, a, WHAT), ask(a, a, WHAT), ask(b, "and", a, WHAT)):
        assert encoded(roomy, messages) == 0
        assert roomy.alone(messages) == with_others_cached(tight, pictures).alone(
            messages
        )


def test_two_pictures_swapped_give_another_answer(
    roomy: Scheduled, pictures: Pictures
) -> None:
    pairs = [(pictures[i], pictures[i + 1]) for i in range(0, 8, 2)]
    orders = [
        (roomy.alone(ask(a, "then", b, WHAT)), roomy.alone(ask(b, "then", a, WHAT)))
        for a, b in pairs
    ]
    assert any(one != other for one, other in orders)


def test_twelve_images_go_through_a_cache_for_three(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    conversations = [ask(p, WHAT) for p in pictures for _ in range(2)]
    expected = [roomy.alone(messages) for messages in conversations]
    evicted = tight.blocks.evictions
    tight.forget()
    assert tight.answers(conversations) == expected
    assert tight.blocks.evictions > evicted
    assert tight.blocks.num_pages == 4
    assert tight.blocks.pinned_entries == 0


def test_an_image_that_a_chat_repeats_is_encoded_once(
    fresh: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    parts = [part for i in range(30) for part in (pictures[0], f"Number {i}?")]
    assert encoded(fresh, ask(*parts)) == 1
    fresh.forget()
    assert fresh.answers([ask(*parts)]) == [roomy.alone(ask(*parts))]


@pytest.mark.parametrize("size", [1, 7, 256, WHOLE])
def test_chunks_of_any_size_give_the_same_answers(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures, size: int
) -> None:
    a, b, c = pictures[:3]
    conversations = [
        ask(a, b, "Which of them shows a star?"),
        ask("Look:", a, "and", c, "What is in both of them, and what in neither?"),
        ask("No picture at all, " * 30),
    ]
    expected = [roomy.alone(messages) for messages in conversations]
    tight.forget()
    tight.chunk_size(size)
    try:
        assert tight.answers(conversations) == expected
    finally:
        tight.chunk_size(WHOLE)


def test_a_step_encodes_at_most_four_images(roomy: Scheduled) -> None:
    """More would not fit a run of the vision graph."""
    new = [Image.new("RGB", (60, 60), (10 * i, 99, 7)) for i in range(20)]
    waiting = [roomy.submit(ask(*new[10 * i :][:10], WHAT)) for i in range(2)]
    encoded_so_far = roomy.image_cache.stats().misses
    # With the last two of its images, the first request begins to decode.
    for number in (4, 4, 4):
        roomy.step()
        misses = roomy.image_cache.stats().misses
        assert misses - encoded_so_far == number
        encoded_so_far = misses
    assert waiting[0].token_ids
    roomy.run()
    assert [len(request.token_ids) for request in waiting] == [NEW_TOKENS] * 2


def test_a_step_encodes_one_image_beside_requests_that_decode(roomy: Scheduled) -> None:
    """So that they get their next token in between."""
    new = [Image.new("RGB", (60, 60), (10 * i, 9, 77)) for i in range(6)]
    started = roomy.submit(ask("Count to ten."), new_tokens=20)
    roomy.step()
    waiting = [roomy.submit(ask(*new[:4], WHAT))]
    waiting += [roomy.submit(ask(image, WHAT)) for image in new[4:]]
    encoded_so_far = roomy.image_cache.stats().misses
    for number in range(1, 7):
        tokens = len(started.token_ids)
        roomy.step()
        assert roomy.image_cache.stats().misses - encoded_so_far == number
        assert len(started.token_ids) == tokens + 1
    roomy.run()
    assert [len(request.token_ids) for request in waiting] == [NEW_TOKENS] * 3


def test_prefix_caching_changes_no_answer(roomy: Scheduled, pictures: Pictures) -> None:
    """Prompts share text before an image with any image, and text after it only with
    the same image in the same place."""
    start = "You see a picture, and after it comes a question. " * 30
    without = Scheduled(prefix_caching=False, max_batch_size=2)
    roomy.forget()
    a, b = pictures[:2]
    for conversation, reuses in (
        (ask(start, a, WHAT), False),
        (ask(start, b, WHAT), True),
        (ask(a, start, WHAT), False),
        (ask(b, start, WHAT), False),
        (ask(a, start, "Which colors?"), True),
        (ask("!", a, start, WHAT), False),
    ):
        request = roomy.submit(conversation)
        roomy.run()
        assert [request.token_ids] == without.answers([conversation])
        assert (request.context.cached_prefix_length > 0) == reuses


def test_images_that_can_never_fit_are_rejected(
    tight: Scheduled, pictures: Pictures
) -> None:
    with pytest.raises(InputError, match=r"4 image\(s\) take .* room for 768.0 KiB"):
        tight.submit(ask(*[part for p in pictures[:4] for part in (p, "and")]))
    with pytest.raises(InputError, match="33 images, but at most 32"):
        tight.submit(ask(*pictures[:1] * 33, WHAT))
