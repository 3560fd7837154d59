"""A worker that hangs is told from one that computes, by made-up looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from mllama.server.supervisor.hang_detector import HangDetector, Look
from mllama.server.supervisor.worker_board import Announcement, WorkKind
from mllama.utils.process_activity import ProcessActivity

STEP = Announcement(rounds=7, work=WorkKind.STEP, tokens=40, images=1)
IDLE = Announcement(rounds=7)
TICK = 0.25


@dataclass
class Worker:
    """A worker as the supervisor sees it, whose time passes in the test alone."""

    detector: HangDetector = field(default_factory=lambda: HangDetector(on_host=True))
    announcement: Announcement = IDLE
    activity: ProcessActivity | None = field(
        default_factory=lambda: ProcessActivity(0, False, False)
    )
    now: float = 100.0

    def live(
        self,
        seconds: float,
        *,
        cores: float = 0.03,
        beats: bool = True,
        rounds: bool = False,
        tick: float = TICK,
        at_each: Callable[[], None] = lambda: None,
    ) -> tuple[float, str] | None:
        """Passes time, and returns when the detector found what, if it did."""
        start = self.now
        while self.now < start + seconds:
            self.now += tick
            self.announcement = replace(
                self.announcement,
                beats=self.announcement.beats + beats,
                rounds=self.announcement.rounds + rounds,
            )
            if self.activity is not None:
                used = self.activity.cpu_seconds + cores * tick
                self.activity = replace(self.activity, cpu_seconds=used)
            at_each()
            look = Look(self.now, self.announcement, self.activity)
            if (found := self.detector.judge(look)) is not None:
                return self.now - start, found
        return None

    def become(self, *, is_stopped: bool = False, wants_to_run: bool = False) -> None:
        assert self.activity is not None
        self.activity = replace(
            self.activity, is_stopped=is_stopped, wants_to_run=wants_to_run
        )


def test_an_idle_worker_whose_rounds_go_on_is_sound() -> None:
    assert Worker().live(1000, rounds=True) is None


@pytest.mark.parametrize("work", [IDLE, STEP, Announcement(work=WorkKind.LOADING)])
def test_a_stopped_worker_is_found_within_five_seconds(work: Announcement) -> None:
    worker = Worker(announcement=work)
    assert worker.live(2, cores=1, rounds=bool(work.rounds)) is None
    worker.become(is_stopped=True)
    found = worker.live(10, cores=0, beats=False)
    assert found is not None
    assert found[0] < 5
    assert "was stopped by a signal" in found[1]


def test_a_worker_that_is_continued_soon_is_sound() -> None:
    worker = Worker()
    for _ in range(5):
        worker.become(is_stopped=True)
        assert worker.live(2, cores=0, beats=False) is None
        worker.become()
        assert worker.live(1, rounds=True) is None


@pytest.mark.parametrize("work", [IDLE, STEP])
def test_threads_that_wait_for_each_other_are_found_within_five_seconds(
    work: Announcement,
) -> None:
    worker = Worker(announcement=work)
    assert worker.live(2, cores=1, rounds=True) is None
    found = worker.live(10)
    assert found is not None
    assert found[0] < 5
    assert "has stopped computing" in found[1]


def test_a_scheduler_without_an_end_is_found_within_five_seconds() -> None:
    worker = Worker()
    worker.live(1, rounds=True)
    worker.become(wants_to_run=True)
    found = worker.live(10, cores=1)
    assert found is not None
    assert found[0] < 5
    assert found[1] == "hangs: its scheduler has no end"


@pytest.mark.parametrize("cores", [0.3, 1, 2])
def test_a_step_of_a_minute_is_sound(cores: float) -> None:
    worker = Worker(announcement=STEP)
    worker.become(wants_to_run=True)
    assert worker.live(60, cores=cores) is None


def test_a_step_whose_thread_holds_the_interpreter_is_sound() -> None:
    """Then nothing beats, as when MAX builds a graph."""
    worker = Worker(announcement=STEP)
    assert worker.live(60, cores=1, beats=False) is None


def test_a_step_far_beyond_its_announced_work_is_found() -> None:
    worker = Worker(announcement=replace(STEP, tokens=1, images=0))
    worker.become(wants_to_run=True)
    found = worker.live(1000, cores=1)
    assert found is not None
    assert 60 < found[0] < 70
    assert found[1] == "hangs: a step of 1 token(s) has no end"


def test_more_work_may_take_longer() -> None:
    worker = Worker(announcement=replace(STEP, tokens=6000, images=4))
    worker.become(wants_to_run=True)
    assert worker.live(3600, cores=1, tick=0.5) is None


def test_a_limit_of_the_user_goes_first() -> None:
    worker = Worker(HangDetector(on_host=True, longest_step=20), announcement=STEP)
    found = worker.live(60, cores=1)
    assert found is not None
    assert 20 < found[0] < 22


def test_a_step_on_a_gpu_needs_no_processor() -> None:
    worker = Worker(HangDetector(on_host=False), announcement=STEP)
    assert worker.live(60) is None


@pytest.mark.parametrize("work", [IDLE, STEP])
def test_a_worker_that_gets_no_processor_is_sound(work: Announcement) -> None:
    """On a starved machine its threads wait, and so does what it announces."""
    worker = Worker(announcement=work)
    worker.become(wants_to_run=True)
    assert worker.live(30, cores=0.05, beats=False) is None


def test_a_worker_that_waits_for_a_disk_is_sound() -> None:
    worker = Worker(announcement=STEP)
    worker.become(wants_to_run=True)  # As a thread in the state D does.
    assert worker.live(30, cores=0, beats=False) is None


def test_a_timer_that_expires_now_and_then_does_not_hide_a_hang() -> None:
    worker = Worker(announcement=STEP)
    looks = iter(range(10**6))

    def expire() -> None:
        worker.become(wants_to_run=next(looks) % 4 == 0)

    found = worker.live(10, at_each=expire)
    assert found is not None
    assert found[0] < 5


def test_time_in_which_the_supervisor_did_not_run_does_not_count() -> None:
    """The machine was suspended, or so busy that nobody ran."""
    worker = Worker(announcement=STEP)
    assert worker.live(2, cores=1) is None
    worker.now += 3600
    assert worker.live(2) is None


def test_a_clock_that_goes_back_does_no_harm() -> None:
    worker = Worker()
    worker.live(2, rounds=True)
    worker.now -= 3600
    assert worker.live(30, rounds=True) is None


def test_loading_may_wait_for_a_process_that_compiles() -> None:
    worker = Worker(announcement=Announcement(beats=1, work=WorkKind.LOADING))
    assert worker.live(3600, tick=0.5) is None


@pytest.mark.parametrize(
    "activity", [ProcessActivity(0, False, True), None], ids=["computes", "unknown"]
)
def test_a_start_without_an_end_is_found_in_minutes(
    activity: ProcessActivity | None,
) -> None:
    worker = Worker(announcement=Announcement(), activity=activity)
    found = worker.live(3600, cores=1, beats=False)
    assert found is not None
    assert 600 < found[0] < 610
    assert found[1] == "hangs: its start has no end"


def test_without_a_proc_file_system_the_heartbeat_decides() -> None:
    worker = Worker(announcement=STEP, activity=None)
    assert worker.live(60) is None
    found = worker.live(10, beats=False)
    assert found is not None
    assert found[0] < 5
    assert found[1] == "has stopped running"
