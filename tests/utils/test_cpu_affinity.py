"""How many cores MAX sees while it makes its threads."""

from __future__ import annotations

import os

import pytest

from mllama.errors import MllamaError
from mllama.utils import cpu_affinity

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="needs Linux"
)


def test_cores_are_limited_only_meanwhile() -> None:
    before = os.sched_getaffinity(0)
    with cpu_affinity.limited_to_cores(1):
        assert len(os.sched_getaffinity(0)) == 1
        assert len(os.sched_getaffinity(os.getpid())) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("number", [0, -1, 10_000])
def test_a_number_of_threads_that_is_none(number: int) -> None:
    with (
        pytest.raises(MllamaError, match="--num-threads must be from 1 to"),
        cpu_affinity.limited_to_cores(number),
    ):
        pass


def test_a_second_model_can_not_have_other_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_affinity, "_made", [None])
    cpu_affinity.start_max_threads(None)
    with pytest.raises(MllamaError, match="made its threads in this process already"):
        cpu_affinity.start_max_threads(1)
