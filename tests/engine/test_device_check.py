"""The demo model's results on a device are compared with those of a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mllama.engine.device_check import (
    TOLERANCE,
    DeviceReport,
    check_device,
    demo_results,
    differences,
    load_reference,
    save_reference,
)
from tests.runtime.gpu_faults import Run, give_scratch_pages, inject
from tests.scheduling.harness import Scheduled


@pytest.fixture(scope="module")
def served() -> Iterator[Scheduled]:
    with pytest.MonkeyPatch.context() as patch:
        give_scratch_pages(patch)
        yield Scheduled(max_batch_size=4, overlaps=False)


@pytest.mark.parametrize("is_sacrificial", [False, True])
def test_the_reference_is_that_of_this_model(
    served: Scheduled, is_sacrificial: bool, tmp_path: Any
) -> None:
    """If the demo model changes, `python -m demo.compute_reference` renews it."""
    runner = served.self_check.images.runner
    runner.is_sacrificial = is_sacrificial
    results = demo_results(served.self_check)
    runner.is_sacrificial = False
    reference = load_reference()
    measured = differences(results, reference)
    assert set(results) == set(reference)
    assert max(measured.values()) < 0.002
    save_reference(results, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as again:
        for name, values in reference.items():
            np.testing.assert_allclose(again[name], values, atol=0.05)


def test_an_error_that_all_images_share_is_found(
    served: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-check can't see it."""

    def every_key_too_large(run: Run) -> None:
        for place in range(len(run.table)):
            run.image(place)[0] *= 1.2

    with monkeypatch.context() as patch:
        inject(patch, served.self_check, every_key_too_large)
        measured = differences(demo_results(served.self_check), load_reference())
    pictures = {name for name in measured if name.startswith("picture")}
    assert len(pictures) == 4
    assert all(measured[name] > TOLERANCE for name in pictures)
    assert measured["text"] < 0.002


def test_values_that_are_not_finite_are_wrong() -> None:
    reference = {"a": np.ones((2, 1, 3, 1, 4), np.float32), "b": np.arange(4.0)}
    actual = {"a": reference["a"] * np.nan, "b": reference["b"]}
    report = DeviceReport("x", differences(actual, reference))
    assert not report.is_right
    facts = report.facts()
    assert facts["self-check"] == "x"
    assert facts["a"].startswith("WRONG: inf of the spread")
    assert facts["b"].startswith("right: 0 of the spread")


def test_a_cpu_is_right() -> None:
    report = check_device("cpu")
    assert report.is_right
    assert report.facts()["self-check"] == "not needed on a CPU"
    assert len(report.differences) == 6
