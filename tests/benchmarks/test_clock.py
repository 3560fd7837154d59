"""The clock's figures from recorded spans."""

from __future__ import annotations

from benchmarks.compare.engines.mllama_clock import TEXT, VISION, Clock


def test_bandwidth_between_steps_is_attributed_to_these_steps() -> None:
    clock = Clock()
    bandwidths = iter([10.0, 30.0, 50.0, 20.0])
    clock.between = lambda: next(bandwidths)
    clock.note(VISION, 0.0)
    for took in (9.0, 1.0, 2.0, 3.0):
        clock.note(TEXT, 0.0)
        clock.spans[-1] = (TEXT, 0.0, took, 1)
    # The first run is the prompt's; the others took 1, 2 and 3 s at 20, 40 and 35 GB/s.
    assert clock.readable() == {"bandwidth": 35.0, "readable": 80.0}
    clock.reset()
    assert clock.measured_between == []
