"""Estimates of the time to the first token, by measured progress."""

from __future__ import annotations

import pytest

from mllama.errors import EngineOverloadedError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.request import GenerationRequest
from mllama.server.scheduling.progress import BusyRate, Progress, PromptWork, work_of
from mllama.server.scheduling.request_queue import RequestQueue

from .controlled_engine import run


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(clock)


TEXT = PromptWork(characters=1000)
PICTURE = PromptWork(characters=1000, images=1)


def read(progress: Progress, clock: Clock, work: PromptWork, seconds: float) -> None:
    progress.begun(0, work)
    clock.now += seconds
    progress.read(0)


def test_nothing_is_expected_before_anything_is_known(progress: Progress) -> None:
    ahead = [PICTURE, TEXT] * 10
    assert progress.seconds_until_first_token(PICTURE, ahead, free_slots=0) == 0


def test_prompts_take_as_long_as_prompts_did(progress: Progress, clock: Clock) -> None:
    read(progress, clock, PICTURE, 40)
    read(progress, clock, TEXT, 2)
    double = PromptWork(2000)
    expect = progress.seconds_until_first_token
    assert expect(TEXT, [], free_slots=1) == pytest.approx(2)
    assert expect(double, [], free_slots=1) == pytest.approx(4)
    assert expect(PICTURE, [], free_slots=1) == pytest.approx(40)
    assert expect(TEXT, [PICTURE, TEXT], free_slots=9) == pytest.approx(44)


def test_prompts_that_are_read_together_share_the_time(
    progress: Progress, clock: Clock
) -> None:
    for key in range(4):
        progress.begun(key, PICTURE)
    for key in range(4):
        clock.now += 10
        progress.read(key)
    assert progress.seconds_until_first_token(
        PICTURE, [], free_slots=1
    ) == pytest.approx(10)


def test_what_the_engine_has_not_read_comes_first(
    progress: Progress, clock: Clock
) -> None:
    read(progress, clock, PICTURE, 40)
    progress.begun(1, PICTURE)
    assert progress.seconds_until_first_token(
        PICTURE, [], free_slots=1
    ) == pytest.approx(80)
    progress.ended(1)
    assert progress.seconds_until_first_token(
        PICTURE, [], free_slots=1
    ) == pytest.approx(40)


def test_slots_become_free_as_they_did(progress: Progress, clock: Clock) -> None:
    progress.set_saturated(True)
    for _ in range(4):
        clock.now += 5
        progress.slot_freed()
    progress.set_saturated(False)
    clock.now += 1000
    expect = progress.seconds_until_first_token
    assert expect(TEXT, [TEXT] * 3, free_slots=0) == pytest.approx(20)
    assert expect(TEXT, [TEXT] * 3, free_slots=2) == pytest.approx(10)
    assert expect(TEXT, [TEXT] * 3, free_slots=4) == 0


def test_what_goes_on_takes_as_long_as_until_now(clock: Clock) -> None:
    rate = BusyRate(clock)
    rate.set_busy(True)
    clock.now += 30
    assert rate.seconds == pytest.approx(30)
    rate.complete(1)
    clock.now += 10
    assert rate.seconds == pytest.approx(40)


def test_an_engine_that_becomes_faster_is_noticed(clock: Clock) -> None:
    rate = BusyRate(clock)
    rate.set_busy(True)
    for seconds in (10, 1):
        for _ in range(300):
            clock.now += seconds
            rate.complete(1)
    assert rate.seconds < 1.5


@pytest.mark.parametrize(
    ("prompt", "characters"),
    [
        ("a" * 50, 50),
        ([1] * 50, 200),
        (ChatPrompt(messages=[{"role": "user", "content": "a" * 50}]), 54),
    ],
)
def test_prompts_have_a_size_before_they_are_tokenized(
    prompt: str | list[int] | ChatPrompt, characters: int
) -> None:
    work = work_of(GenerationRequest(prompt=prompt))
    assert characters <= work.characters <= characters + 2


def test_what_would_come_too_late_is_refused_before_any_work(clock: Clock) -> None:
    async def main() -> None:
        progress = Progress(clock)
        read(progress, clock, PICTURE, 20)
        queue = RequestQueue(
            1, limit=100, prepared_ahead=2, max_seconds=50, progress=progress
        )
        errors: list[Exception] = []
        first = queue.enter("A", errors.append, PICTURE)
        await first.preparation()
        await first.next()
        queue.enter("A", errors.append, PICTURE)
        with pytest.raises(EngineOverloadedError, match="expected in 60 s") as refused:
            queue.enter("A", errors.append, PICTURE)
        assert refused.value.retry_after == 60
        assert "--max-time-to-first-token" in str(refused.value)
        # Another client comes before A's second request.
        other = queue.enter("B", errors.append, PICTURE)
        # Texts take no time that is known, but the pictures before them do.
        with pytest.raises(EngineOverloadedError):
            queue.enter("A", errors.append, TEXT)
        other.leave()
        queue.enter("A", errors.append, TEXT)
        first.leave()
        queue.enter("A", errors.append, PICTURE)
        assert not errors

    run(main())


def test_no_time_is_too_long_by_default(clock: Clock) -> None:
    async def main() -> None:
        progress = Progress(clock)
        read(progress, clock, PICTURE, 1e6)
        queue = RequestQueue(1, limit=3, prepared_ahead=2, progress=progress)
        for _ in range(4):
            queue.enter("A", print, PICTURE)
        with pytest.raises(EngineOverloadedError, match="too many requests"):
            queue.enter("A", print, PICTURE)

    run(main())
