"""Coroutines run whether or not the caller has an event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

import pytest

from mllama.utils.event_loops import background_task, run_coroutine

SECONDS = 60


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def fail() -> None:
    raise ValueError("wrong")


def test_a_coroutine_runs_without_a_loop_and_in_one() -> None:
    async def cell() -> int:
        with pytest.raises(ValueError, match="wrong"):
            run_coroutine(fail())
        return run_coroutine(double(2))

    assert run_coroutine(double(1)) == 2
    assert asyncio.run(cell()) == 4


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_an_interrupt_cancels_the_coroutine(in_a_loop: bool) -> None:
    ended: list[str] = []
    main = threading.get_ident()

    async def wait() -> None:
        # Ctrl-C comes to the main thread, whichever this is.
        signal.pthread_kill(main, signal.SIGINT)
        try:
            await asyncio.sleep(2 * SECONDS)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            run_coroutine(wait())

    async def cell() -> None:
        interrupt()

    def notebook() -> None:
        # Its loop has no handler of its own for Ctrl-C.
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(cell())
        finally:
            loop.close()

    started = time.monotonic()
    notebook() if in_a_loop else interrupt()
    # The interrupt may come before anybody waits for the thread.
    while not ended and time.monotonic() - started < SECONDS:
        time.sleep(0.01)
    assert ended == ["cancelled"]
    assert time.monotonic() - started < SECONDS


def test_a_background_task_ends_with_its_block() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async def run() -> None:
        async with background_task(wait()):
            await asyncio.sleep(0)
            assert not ended
        assert ended == ["ended"]

    asyncio.run(run())
