"""MAX creates its threads under a limit of cores, once."""

from __future__ import annotations

import os

import pytest

from mllama.errors import MllamaError
from mllama.utils import cpu_affinity

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="needs Linux"
)


def test_cores_are_limited_within_the_context_only() -> None:
    before = os.sched_getaffinity(0)
    with cpu_affinity.limited_to_cores(1):
        assert len(os.sched_getaffinity(0)) == 1
        assert len(os.sched_getaffinity(os.getpid())) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("number", [0, -1, 10_000])
def test_an_impossible_number_of_threads_is_refused(number: int) -> None:
    with (
        pytest.raises(MllamaError, match="--num-threads must be from 1 to"),
        cpu_affinity.limited_to_cores(number),
    ):
        pass


def test_a_second_model_can_not_change_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_affinity, "_limits", [None])
    cpu_affinity.start_max_threads(None)
    with pytest.raises(
        MllamaError, match="created its threads in this process already"
    ):
        cpu_affinity.start_max_threads(1)
