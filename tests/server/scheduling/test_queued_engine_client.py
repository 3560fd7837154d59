"""Requests wait in a bounded, fair queue before the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllama.errors import EngineOverloadedError
from mllama.requests.events import Finished
from mllama.server.engine_client import EngineClient
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import RequestQueue

from .controlled_engine import Asker, ControlledEngine, run, settle


class Setup:
    """A queue before an engine that a test controls."""

    def __init__(self, slots: int, limit: int = 100, prepared_ahead: int = 2) -> None:
        self.engine = ControlledEngine()
        self.queue = RequestQueue(slots, limit=limit, prepared_ahead=prepared_ahead)
        self.client = QueuedEngineClient(self.engine, self.queue)
        self.askers: dict[str, Asker] = {}

    async def ask(self, *names: str, **options: Any) -> None:
        for name in names:
            self.askers[name] = Asker(self.client, name, **options)
            await settle()

    async def end(self, *names: str) -> None:
        for name in names:
            self.engine.end(name)
            await settle()

    async def leave(self, *names: str) -> None:
        for name in names:
            await self.askers[name].leave()
            await settle()

    def refused(self) -> list[str]:
        return [
            name
            for name, asker in self.askers.items()
            if isinstance(asker.error, EngineOverloadedError)
        ]

    def assert_idle(self) -> None:
        """Nothing is held by anybody."""
        queue = self.queue
        assert (queue.waiting, queue.running, len(queue._unprepared)) == (0, 0, 0)
        assert not queue._unprepared._accounts
        assert not queue._slots._queue._accounts
        assert not queue._slots._futures
        assert not queue._places
        assert not queue._ready
        assert not queue._waiting


def test_the_queue_is_an_engine_client() -> None:
    client: EngineClient = Setup(1).client
    assert client.token_bytes(1) == b"a"
    assert asyncio.run(client.tokenize("a")) == [1, 2, 3]
    assert asyncio.run(client.count_tokens("a", [])) == 3


def test_fifty_of_one_client_let_another_one_begin_next() -> None:
    async def main() -> None:
        setup = Setup(slots=4)
        await setup.ask(*(f"A{number}" for number in range(50)))
        await setup.ask("B0", "C0")
        assert setup.engine.begun == ["A0", "A1", "A2", "A3"]
        await setup.end("A2", "A0", "A1")
        assert setup.engine.begun[4:] == ["B0", "C0", "A4"]
        # Those that will soon begin are prepared, and no others.
        assert len(setup.engine.preparing) < 12

    run(main())


def test_one_client_is_served_in_the_order_in_which_it_asks() -> None:
    async def main() -> None:
        setup = Setup(slots=1)
        names = [f"A{number}" for number in range(6)]
        await setup.ask(*names)
        await setup.end(*names)
        assert setup.engine.begun == setup.engine.preparing == names
        assert all(
            isinstance(setup.askers[name].events[-1], Finished) for name in names
        )
        setup.assert_idle()

    run(main())


def test_only_what_begins_soon_is_prepared() -> None:
    async def main() -> None:
        setup = Setup(slots=2, prepared_ahead=3)
        await setup.ask(*(f"A{number}" for number in range(10)))
        assert setup.engine.preparing == ["A0", "A1", "A2", "A3", "A4"]
        await setup.end("A0")
        assert setup.engine.preparing[5:] == ["A5"]

    run(main())


def test_many_are_prepared_together_if_there_are_slots_for_them() -> None:
    async def main() -> None:
        setup = Setup(slots=8, prepared_ahead=2)
        names = [f"A{number}" for number in range(20)]
        setup.engine.slow = set(names)
        await setup.ask(*names)
        assert setup.engine.preparing == names[:10]

    run(main())


def test_a_slot_goes_to_whoever_is_ready_and_the_slow_one_comes_next() -> None:
    async def main() -> None:
        setup = Setup(slots=1, prepared_ahead=3)
        setup.engine.slow = {"A1"}
        await setup.ask("A0", "A1", "A2", "A3")
        await setup.end("A0")
        assert setup.engine.begun == ["A0", "A2"]
        setup.engine.prepare("A1")
        await settle()
        await setup.end("A2")
        assert setup.engine.begun == ["A0", "A2", "A1"]

    run(main())


def test_choices_count_as_the_slots_that_they_have() -> None:
    async def main() -> None:
        setup = Setup(slots=3)
        await setup.ask("A0", choices=4)
        assert setup.engine.begun == ["A0", "A0", "A0"]
        await setup.ask("A1", "B0", "B1")
        # A has two then, and B none.
        setup.engine.end("A0", 1)
        await settle()
        assert setup.engine.begun[3:] == ["B0"]
        # Each has one then, and A has just had another one.
        setup.engine.end("A0", 0)
        await settle()
        assert setup.engine.begun[4:] == ["B1"]
        # Now it is the other way round.
        await setup.end("B0")
        assert setup.engine.begun[5:] == ["A0"]
        setup.engine.end("A0", 2)
        setup.engine.end("A0", 3)
        await settle()
        assert setup.askers["A0"].task.done()
        assert setup.engine.begun[6:] == ["A1"]
        await setup.end("A1", "B1")
        setup.assert_idle()

    run(main())


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_no_more_wait_than_the_bound_says(limit: int) -> None:
    async def main() -> None:
        setup = Setup(slots=2, limit=limit)
        await setup.ask(*(f"A{number}" for number in range(10)))
        assert setup.refused() == [f"A{number}" for number in range(limit + 2, 10)]
        assert (setup.queue.running, setup.queue.waiting) == (2, limit)
        await setup.end("A0")
        await setup.ask("A10", "A11")
        assert setup.refused()[-1] == "A11"
        assert "A10" not in setup.refused()

    run(main())


def test_a_full_queue_of_one_client_makes_room_for_others() -> None:
    async def main() -> None:
        setup = Setup(slots=1, limit=4)
        await setup.ask(*(f"A{number}" for number in range(5)))
        await setup.ask("B0")
        assert setup.refused() == ["A4"]
        await setup.ask("B1", "B2", "A5")
        # Each has two then: nobody has to make room any more.
        assert setup.refused() == ["A3", "A4", "B2", "A5"]
        await setup.end("A0")
        assert setup.engine.begun == ["A0", "B0"]

    run(main())


def test_parts_of_a_request_wait_as_one() -> None:
    async def main() -> None:
        setup = Setup(slots=1, limit=1)
        await setup.ask("A0")
        for part in range(1, 4):
            await setup.ask(f"A{part}", part=part)
        assert not setup.refused()
        assert setup.queue.waiting == 0
        await setup.ask("B0")
        assert not setup.refused()
        await setup.ask("B1")
        assert setup.refused() == ["B1"]

    run(main())


@pytest.mark.parametrize(
    ("slow", "before"),
    [
        ((), "it runs"),
        (("A1",), "it is prepared"),
        (("A1", "A2"), "its turn to be prepared comes"),
    ],
)
def test_a_client_that_leaves_frees_its_slot_and_its_place(
    slow: tuple[str, ...], before: str
) -> None:
    async def main() -> None:
        setup = Setup(slots=1, prepared_ahead=1)
        setup.engine.slow = set(slow)
        await setup.ask("A0", "A1", "A2", "A3")
        await setup.leave("A2", "A1", "A0")
        assert setup.engine.begun == ["A0", "A3"]
        assert setup.queue.waiting == 0
        await setup.leave("A3")
        assert set(setup.engine.closed) == set(setup.engine.preparing)
        setup.assert_idle()

    run(main())


def test_a_client_that_leaves_as_it_arrives_leaves_nothing() -> None:
    async def main() -> None:
        setup = Setup(slots=1)
        for turns in range(8):
            asker = Asker(setup.client, "A0")
            for _ in range(turns):
                await asyncio.sleep(0)
            await asker.leave()
            setup.assert_idle()

    run(main())


def test_a_request_that_fails_frees_its_slot() -> None:
    async def main() -> None:
        setup = Setup(slots=1)
        setup.engine.broken = {"A0"}
        await setup.ask("A0", "A1")
        assert str(setup.askers["A0"].error) == "broken"
        assert setup.engine.begun == ["A0", "A1"]
        await setup.end("A1")
        setup.assert_idle()

    run(main())


def test_a_client_that_reads_slowly_keeps_no_slot() -> None:
    async def main() -> None:
        setup = Setup(slots=1)
        await setup.ask("A0", "A1")
        setup.askers["A0"].stop_reading()
        await setup.end("A0")
        assert not setup.askers["A0"].task.done()
        assert setup.engine.begun == ["A0", "A1"]
        await setup.leave("A0")
        await setup.end("A1")
        setup.assert_idle()

    run(main())


def test_an_engine_that_is_cancelled_from_within_ends_the_request() -> None:
    async def main() -> None:
        setup = Setup(slots=1)
        await setup.ask("A0")
        (task,) = [
            each for each in asyncio.all_tasks() if "_follow" in str(each.get_coro())
        ]
        task.cancel()
        await settle()
        assert "given up" in str(setup.askers["A0"].error)
        setup.assert_idle()

    run(main())


STEP = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from("ABC"), st.integers(1, 3)),
    st.tuples(st.just("end"), st.integers(0, 30), st.integers(0, 2)),
    st.tuples(st.just("prepare"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("leave"), st.integers(0, 30), st.just(0)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEP, max_size=30), st.integers(1, 3), st.integers(0, 4))
def test_any_course_of_events_keeps_the_bounds_and_frees_all(
    steps: list[tuple[str, Any, int]], slots: int, limit: int
) -> None:
    async def main() -> None:
        setup = Setup(slots, limit)
        engine, queue = setup.engine, setup.queue
        for kind, which, number in steps:
            names = list(setup.askers)
            if kind == "ask":
                name = f"{which}{len(names)}"
                if number == 3:
                    engine.slow.add(name)
                await setup.ask(name, choices=number)
            elif names:
                name = names[which % len(names)]
                if kind == "leave":
                    await setup.leave(name)
                elif kind == "prepare":
                    engine.prepare(name)
                else:
                    engine.end(name, number)
            await settle()
            assert queue.running <= slots
            assert queue.waiting <= limit + slots
            if queue.running < slots:
                # A free slot means that nobody is ready.
                assert not queue._slots.waiting
        for name in setup.askers:
            engine.prepare(name)
            for choice in range(3):
                engine.end(name, choice)
        for _ in range(len(setup.askers)):
            await settle()
        for asker in setup.askers.values():
            assert asker.task.done()
            is_refused = isinstance(asker.error, EngineOverloadedError)
            assert asker.error is None or is_refused
        setup.assert_idle()

    run(main())
