"""Workers that die again and again are started less and less often."""

from __future__ import annotations

from mllama.server.supervisor.backoff import STEADY_SECONDS, Backoff


def test_the_first_is_replaced_at_once_and_the_others_after_ever_longer() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay(0) for _ in range(10)]
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert backoff.failures == 10
    for _ in range(10_000):
        assert backoff.next_delay(5) == 60


def test_a_worker_that_has_served_for_a_while_is_replaced_at_once() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.next_delay(1)
    assert backoff.next_delay(STEADY_SECONDS) == 0
    assert backoff.next_delay(1) == 1
