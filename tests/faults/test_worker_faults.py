"""Whatever happens to the worker, clients are told, and requests work again."""

from __future__ import annotations

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.server.conftest import Server
from tests.timing import is_kept_in_a_round

from .faulty_server import HANGS, LONG_PROMPT, SLOW
from .harness import APIS, Answer, Faults, picture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

NOTICE_SECONDS = 5
"""A worker that hangs or is stopped is noticed within this time."""

SPARE_SECONDS = 1
"""What noticing may take beyond that, since the supervisor counts its own time."""


def check(answers: list[Answer], reference: str) -> None:
    """Checks that each client was told the truth, and how its request went."""
    for answer in answers:
        assert answer.has_ended, answer
        if answer.is_complete:
            continue
        assert "the model's process has died" in str(answer.error)
        assert answer.status in (200, 503)
        if answer.status == 503:
            assert int(answer.retry_after or 0) >= 1
        assert reference.startswith(answer.text)


@pytest.fixture(scope="module")
def reference(faulty: Server) -> str:
    """The answer that streams get a part of."""
    return Faults(faulty).ask().text


def test_a_killed_worker_is_replaced_within_ten_seconds(
    faults: Faults, reference: str
) -> None:
    rounds: list[tuple[float, float, float]] = []

    def replace() -> bool:
        rounds.append(_seconds_of_a_replacement(faults, reference))
        noticed, refused, replaced = rounds[-1]
        return noticed < 1 and refused < 2 and replaced < 10

    assert is_kept_in_a_round(replace), rounds


def _seconds_of_a_replacement(
    faults: Faults, reference: str
) -> tuple[float, float, float]:
    """Kills the worker; returns the seconds until that is noticed, of the slowest
    refusal and until the next one serves."""
    faults.wait_for_standby()
    before = faults.metric("mllama_worker_restarts_total")
    faults.ask(messages=picture((9, 99, 9)), max_tokens=1)
    encoded = faults.metric("mllama_image_cache_misses_total")
    killed = faults.signal_worker(signal.SIGKILL)
    noticed = faults.wait_for_health(503) - killed
    assert faults.health("/live") == 200
    assert faults.health("/ready") == 503
    slowest = 0.0
    for api in APIS:
        refused = faults.ask(api)
        assert refused.status == 503
        assert int(refused.retry_after or 0) >= 1
        assert "the model's process has died" in str(refused.error)
        slowest = max(slowest, refused.seconds)
    replaced = faults.wait_for_health(200) - killed
    assert faults.ask().text == reference
    assert faults.metric("mllama_worker_restarts_total") == before + 1
    # Counters go on, and the cache begins empty.
    assert faults.metric("mllama_image_cache_misses_total") == encoded
    assert faults.metric("mllama_image_cache_entries") == 0
    faults.ask(messages=picture((9, 99, 9)), max_tokens=1)
    assert faults.metric("mllama_image_cache_misses_total") == encoded + 1
    return noticed, slowest, replaced


def test_sixty_four_streams_end_with_an_error_when_the_worker_is_killed(
    faults: Faults, reference: str
) -> None:
    with faults.asking(64) as answers:
        faults.wait_for_requests(answers)
        killed = faults.signal_worker(signal.SIGKILL)
        ended = [each.result() for each in answers]
        assert time.monotonic() - killed < 60
    check(ended, reference)
    # Some may have been answered before the last one came.
    assert sum(answer.error is not None for answer in ended) > 10
    faults.wait_for_health(200)
    assert faults.ask().text == reference
    log = faults.server.log.read_text()
    assert "it was killed by SIGKILL" in log
    assert "Traceback" not in log


def test_a_stopped_worker_is_noticed_and_replaced(
    faults: Faults, reference: str
) -> None:
    seconds: list[float] = []

    def stop() -> bool:
        with faults.asking(12) as answers:
            faults.wait_for_requests(answers)
            stopped = faults.signal_worker(signal.SIGSTOP)
            seconds.append(faults.wait_for_health(503) - stopped)
            check([each.result() for each in answers], reference)
        faults.wait_for_health(200)
        assert faults.ask().text == reference
        return seconds[-1] < NOTICE_SECONDS + SPARE_SECONDS

    assert is_kept_in_a_round(stop), seconds


def test_threads_that_wait_for_ever_are_noticed_and_a_long_step_is_not(
    faults: Faults, reference: str
) -> None:
    restarts = faults.metric("mllama_worker_restarts_total")
    slow = faults.ask(messages=picture(SLOW), max_tokens=4)
    # Longer than a hang may take, and not one.
    assert slow.is_complete
    assert slow.seconds > NOTICE_SECONDS + SPARE_SECONDS
    assert faults.metric("mllama_worker_restarts_total") == restarts
    seconds: list[float] = []

    def hang() -> bool:
        hanging = faults.ask(messages=picture(HANGS), max_tokens=4)
        assert "the model's process has died" in str(hanging.error)
        seconds.append(hanging.seconds)
        faults.wait_for_health(200)
        return hanging.seconds < NOTICE_SECONDS + SPARE_SECONDS

    assert is_kept_in_a_round(hang), seconds
    # The log may say so a moment after the clients are told.
    assert "has stopped computing" in faults.server.log.read_text()
    assert faults.ask().text == reference


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("stage", ["idle", "encode", "prefill", "decode", "64 streams"])
def test_a_worker_can_die_at_any_stage(
    faults: Faults, reference: str, stage: str, number: signal.Signals
) -> None:
    messages = {
        "encode": picture(SLOW),
        "prefill": [{"role": "user", "content": "word " * LONG_PROMPT}],
    }.get(stage)
    count = {"idle": 0, "64 streams": 64}.get(stage, 3)
    with ThreadPoolExecutor(64) as pool:
        answers = [
            pool.submit(faults.ask, APIS[0 if messages else each % 3], messages)
            for each in range(count)
        ]
        time.sleep(2)
        sent = faults.signal_worker(number)
        # Otherwise it would be the detector of hangs that notices a death.
        limit = 3 if number is signal.SIGKILL else NOTICE_SECONDS + 3
        assert faults.wait_for_health(503) - sent < limit
        ended = [each.result() for each in answers]
    check(ended, "" if messages else reference)
    faults.wait_for_health(200)
    assert faults.ask().text == reference


@pytest.mark.long
def test_nothing_leaks_in_ten_restarts(
    faults: Faults, reference: str, temporary: Path
) -> None:
    def restart() -> dict[str, int]:
        with faults.asking(8) as answers:
            time.sleep(1)
            faults.signal_worker(signal.SIGKILL)
            check([each.result() for each in answers], reference)
        faults.wait_for_health(200)
        assert faults.ask().text == reference
        faults.wait_for_standby()
        return faults.holdings(temporary)

    before = restart()
    for _ in range(9):
        after = restart()
    assert all(after[name] <= before[name] for name in before), (before, after)


@pytest.mark.long
def test_a_step_of_a_minute_is_no_hang(faulty_for_a_minute: Faults) -> None:
    answer = faulty_for_a_minute.ask(messages=picture(SLOW), max_tokens=4, timeout=300)
    assert answer.is_complete
    assert answer.seconds > 60
    assert faulty_for_a_minute.metric("mllama_worker_restarts_total") == 0


def test_all_processes_end_with_a_server_that_is_killed(faulty: Server) -> None:
    """The last test of this server."""
    faults = Faults(faulty)
    processes = faults.process.children(recursive=True)
    assert processes
    faults.server.process.kill()
    faults.server.process.wait(60)
    _, alive = psutil.wait_procs(processes, 60)
    assert not alive
