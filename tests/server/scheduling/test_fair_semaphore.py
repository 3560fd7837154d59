"""A capacity that clients share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllama.server.scheduling.fair_semaphore import FairSemaphore, Lease


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_it_waits_beyond_the_capacity() -> None:
    async def main() -> None:
        budget = FairSemaphore(10)
        first = await budget.acquire(6)
        second = asyncio.ensure_future(budget.acquire(5))
        await turns()
        assert not second.done()
        assert (budget.held, budget.waiting) == (6, 1)
        first.release(1)
        await turns()
        assert second.result().weight == 5
        assert (budget.held, budget.waiting, first.weight) == (10, 0, 5)

    run(main())


def test_what_is_free_is_had_without_a_turn_for_others() -> None:
    async def main() -> None:
        budget = FairSemaphore(2)
        is_others_turn = False

        def note() -> None:
            nonlocal is_others_turn
            is_others_turn = True

        asyncio.get_running_loop().call_soon(note)
        with await budget.acquire(2):
            assert not is_others_turn

    run(main())


def test_what_needs_much_is_not_overtaken() -> None:
    async def main() -> None:
        budget = FairSemaphore(10)
        small = await budget.acquire(1)
        large = asyncio.ensure_future(budget.acquire(10))
        await turns()
        later = asyncio.ensure_future(budget.acquire(1))
        await turns()
        assert not later.done()
        small.release()
        await turns()
        assert large.done()
        assert not later.done()
        large.result().release()
        await turns()
        assert later.done()

    run(main())


def test_a_client_that_gives_up_lets_those_behind_it_go() -> None:
    async def main() -> None:
        budget = FairSemaphore(10)
        lease = await budget.acquire(1)
        large = asyncio.ensure_future(budget.acquire(10))
        small = asyncio.ensure_future(budget.acquire(1))
        await turns()
        large.cancel()
        await turns()
        assert small.done()
        small.result().release()
        lease.release()
        assert (budget.held, budget.waiting) == (0, 0)

    run(main())


def test_a_client_that_leaves_as_it_is_served_gives_back_what_it_got() -> None:
    async def main() -> None:
        budget = FairSemaphore(1)
        lease = await budget.acquire(1)
        waiting = asyncio.ensure_future(budget.acquire(1))
        await turns()
        lease.release()
        waiting.cancel()  # It has been served, and hasn't run since.
        await turns()
        assert waiting.cancelled()
        assert budget.held == 0

    run(main())


def test_a_client_that_left_is_not_served() -> None:
    async def main() -> None:
        budget = FairSemaphore(1)
        lease = await budget.acquire(1)
        waiting = asyncio.ensure_future(budget.acquire(1))
        await turns()
        waiting.cancel()
        lease.release()  # Its task has been cancelled, and hasn't run since.
        await turns()
        assert waiting.cancelled()
        assert (budget.held, budget.waiting) == (0, 0)

    run(main())


def test_a_lease_is_given_back_once() -> None:
    async def main() -> None:
        budget = FairSemaphore(10)
        kept = await budget.acquire(2)
        with await budget.acquire(8) as lease:
            lease.release(3)
            assert budget.held == 7
            lease.release(100)
        lease.release()
        assert budget.held == kept.weight == 2

    run(main())


def test_to_give_nothing_back_changes_no_order() -> None:
    async def main() -> None:
        budget = FairSemaphore(3)
        one = await budget.acquire(1, "one")
        await budget.acquire(1, "two")
        last = await budget.acquire(1, "three")
        order: list[str] = []

        async def wait(client: str) -> None:
            await budget.acquire(1, client)
            order.append(client)

        waiting = [asyncio.ensure_future(wait(client)) for client in ("one", "two")]
        await turns()
        # Both hold one, and "one" has waited for longer.
        one.release(0)
        last.release()
        await turns()
        assert order == ["one"]
        for each in waiting:
            each.cancel()

    run(main())


@pytest.mark.parametrize("weight", [-1, 11])
def test_what_can_never_be_had_is_refused(weight: int) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="from 0 to 10"):
            await FairSemaphore(10).acquire(weight)

    run(main())


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        FairSemaphore(0)


def test_a_lease_grows_in_its_clients_turn() -> None:
    async def main() -> None:
        slots = FairSemaphore(2)
        first = await slots.acquire(1, "A")
        other = await slots.acquire(1, "A")
        growth = asyncio.ensure_future(first.grow())
        await turns()
        newcomer = asyncio.ensure_future(slots.acquire(1, "B"))
        await turns()
        other.release()
        await turns()
        assert newcomer.done()  # B has nothing yet, and A has one.
        assert not growth.done()
        newcomer.result().release()
        await turns()
        assert growth.done()
        assert first.weight == 2
        first.release()
        assert slots.held == 0

    run(main())


def test_a_growth_that_is_cancelled_keeps_the_lease() -> None:
    async def main() -> None:
        slots = FairSemaphore(1)
        lease = await slots.acquire()
        growth = asyncio.ensure_future(lease.grow())
        await turns()
        growth.cancel()
        await turns()
        assert (lease.weight, slots.held, slots.waiting) == (1, 1, 0)

    run(main())


def test_fifty_of_one_client_let_another_one_start_next() -> None:
    async def main() -> None:
        slots = FairSemaphore(4)
        running = [await slots.acquire(1, "A") for _ in range(4)]
        queued = [asyncio.ensure_future(slots.acquire(1, "A")) for _ in range(46)]
        await turns()
        newcomer = asyncio.ensure_future(slots.acquire(1, "B"))
        await turns()
        running[0].release()
        await turns()
        assert newcomer.done()
        assert not any(task.done() for task in queued)
        for task in queued:
            task.cancel()

    run(main())


STEP = st.one_of(
    st.tuples(st.just("acquire"), st.integers(0, 7), st.sampled_from("ABC")),
    st.tuples(st.just("release"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("turn"), st.just(0), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_any_order_of_events_keeps_the_bound_and_serves_all(
    steps: list[tuple[str, int, Any]],
) -> None:
    capacity = 7

    async def main() -> None:
        budget = FairSemaphore(capacity)
        tasks: list[asyncio.Task[Lease]] = []
        for name, number, argument in steps:
            if name == "acquire":
                tasks.append(asyncio.ensure_future(budget.acquire(number, argument)))
            elif name == "turn":
                await turns(2)
            elif tasks:
                task = tasks[number % len(tasks)]
                if name == "cancel":
                    task.cancel()
                elif task.done() and not task.cancelled():
                    task.result().release(argument)
            assert 0 <= budget.held <= capacity
        await turns()
        leases = [
            each.result() for each in tasks if each.done() and not each.cancelled()
        ]
        assert budget.held == sum(lease.weight for lease in leases)
        if budget.waiting:
            # Whoever is first can't be served: nothing is kept back without a reason.
            first = budget._queue.first()
            assert first is not None
            assert budget.held + first.weight > capacity
        random.Random(0).shuffle(leases)
        for lease in leases:
            lease.release()
        for _ in tasks:
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.result().release()
            await turns()
        assert all(task.done() for task in tasks)
        assert (budget.held, budget.waiting) == (0, 0)
        assert not budget._futures
        assert not budget._queue._accounts

    run(main())
