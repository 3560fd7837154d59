"""The order of what waits."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mllama.utils.fair_queue import FairQueue

CLIENTS = st.sampled_from("ABC")


def served(queue: FairQueue, count: int) -> str:
    """The clients that are served next, each of which goes on to hold what it got."""
    names = []
    for _ in range(count):
        ticket = queue.first()
        assert ticket is not None
        queue.leave(ticket)
        queue.change_held(ticket.client, ticket.weight)
        names.append(str(ticket.client))
    return "".join(names)


def test_a_client_that_has_nothing_goes_before_fifty_of_another() -> None:
    queue = FairQueue()
    queue.change_held("A", 4)
    for _ in range(50):
        queue.join("A", 1)
    queue.join("B", 1)
    assert served(queue, 3) == "BAA"


def test_clients_take_turns() -> None:
    queue = FairQueue()
    for client in "AAABBC":
        queue.join(client, 1)
    assert served(queue, 6) == "ABCABA"


def test_with_one_slot_clients_take_turns_too() -> None:
    queue = FairQueue()
    queue.change_held("A", 1)
    for client in "AAAAB":
        queue.join(client, 1)
    names = []
    running = "A"
    while (ticket := queue.first()) is not None:
        queue.change_held(running, -1)
        ticket = queue.first()
        assert ticket is not None
        running = ticket.client
        queue.leave(ticket)
        queue.change_held(running, 1)
        names.append(running)
        if names == ["B"]:
            queue.join("B", 1)
    assert "".join(names) == "BABAAA"


def test_new_clients_keep_nobody_waiting_for_ever() -> None:
    queue = FairQueue()
    queue.change_held("A", 1)
    queue.change_held("A", -1)
    queue.join("B", 1)
    queue.join("A", 1)
    for newcomer in range(10):
        queue.join(newcomer, 1)
    assert served(queue, 3) == "BA0"


def test_what_is_held_counts_and_not_how_often_it_was_asked_for() -> None:
    queue = FairQueue()
    for client, weight in (("A", 3), ("A", 1), ("B", 1), ("B", 1), ("B", 1), ("B", 1)):
        queue.join(client, weight)
    assert served(queue, 6) == "ABBBAB"


def test_one_client_is_served_in_the_order_in_which_it_came() -> None:
    queue = FairQueue()
    tickets = [queue.join("A", weight) for weight in (5, 1, 3)]
    for ticket in tickets:
        assert queue.first() is ticket
        queue.leave(ticket)
    assert queue.first() is None


def test_nothing_is_kept_of_clients_that_are_gone() -> None:
    queue = FairQueue()
    for client in range(1000):
        ticket = queue.join(client, 1)
        queue.leave(ticket)
        queue.leave(ticket)
        queue.change_held(client, 2)
        queue.change_held(client, -2)
    assert len(queue) == 0
    assert not queue._accounts
    assert not queue._waiting


def test_a_place_may_have_the_number_that_it_had_in_another_queue() -> None:
    queue = FairQueue(itertools.count(10))
    tickets = {number: queue.join("A", 1, number) for number in (5, 2, 9)}
    double = queue.join("A", 1, 2)
    behind = queue.join("A", 1)
    for ticket in (tickets[2], double, tickets[5], tickets[9], behind):
        assert queue.first() is ticket
        queue.leave(ticket)
    assert queue.first() is None


@given(st.lists(st.tuples(CLIENTS, st.integers(0, 5), st.booleans()), max_size=30))
def test_the_first_is_always_of_a_client_that_holds_least(
    steps: list[tuple[str, int, bool]],
) -> None:
    """Compared with a plain search through a list."""
    queue, waiting = FairQueue(), []
    held = dict.fromkeys("ABC", 0)
    for client, weight, joins in steps:
        if joins:
            waiting.append(queue.join(client, weight))
        else:
            queue.change_held(client, weight)
            held[client] += weight
    while waiting:
        first = queue.first()
        assert first is not None
        least = min(held[each.client] for each in waiting)
        assert held[first.client] == least
        own = [each for each in waiting if each.client == first.client]
        assert first is own[0]
        assert len(queue) == len(waiting)
        queue.leave(first)
        waiting.remove(first)
    assert queue.first() is None
