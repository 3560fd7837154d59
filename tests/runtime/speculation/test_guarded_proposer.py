"""A proposer that raises is asked again, but not for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllama.runtime.speculation.guarded_proposer import MOST_FAILURES, GuardedProposer
from mllama.runtime.speculation.proposer import Prospect


class Raising:
    """Raises in the methods that are named."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.released: list[Any] = []

    def prospects(self, contexts: Any) -> list[Prospect]:
        self._call("prospects")
        return [Prospect(4)] * len(contexts)

    def propose(self, contexts: Any, limits: Any) -> list[np.ndarray]:
        self._call("propose")
        return [np.zeros(limit, np.int64) for limit in limits]

    def release(self, request_id: Any) -> None:
        self._call("release")
        self.released.append(request_id)

    def _call(self, name: str) -> None:
        if name in self.names:
            raise RuntimeError(name)


BATCH = [SimpleNamespace(request_id="a"), SimpleNamespace(request_id="b")]


def sizes(proposer: GuardedProposer, *limits: int) -> list[int]:
    return [guesses.size for guesses in proposer.propose(BATCH, limits)]


def test_a_failing_call_forgets_its_requests() -> None:
    raising = Raising("propose")
    guarded = GuardedProposer(raising)
    assert sizes(guarded, 1, 2) == [0, 0]
    assert raising.released == ["a", "b"]
    raising.names.clear()
    assert sizes(guarded, 1, 2) == [1, 2]


def test_only_failures_in_a_row_end_it() -> None:
    raising = Raising()
    guarded = GuardedProposer(raising)
    for _ in range(5):
        raising.names = {"propose"}
        for _ in range(MOST_FAILURES - 1):
            sizes(guarded, 1, 1)
        raising.names = set()
        assert sizes(guarded, 1, 1) == [1, 1]
    assert guarded.proposer is raising


@pytest.mark.parametrize(
    "names", [["propose"], ["prospects"], ["release"], ["propose", "release"]]
)
def test_one_that_always_fails_is_given_up(names: list[str]) -> None:
    guarded = GuardedProposer(Raising(*names))
    for _ in range(MOST_FAILURES):
        assert len(guarded.prospects(BATCH)) == 2
        if "propose" in names:
            assert sizes(guarded, 1, 1) == [0, 0]
        guarded.release("a")
    assert guarded.proposer is None
    assert guarded.prospects(BATCH) == [Prospect(0)] * 2
    assert sizes(guarded, 1, 1) == [0, 0]
    guarded.release("a")


def test_one_that_is_asked_for_nothing_is_not_called() -> None:
    guarded = GuardedProposer(Raising("propose"))
    for _ in range(5):
        assert sizes(guarded, 0, 0) == [0, 0]
    assert guarded.proposer is not None
