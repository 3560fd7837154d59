"""The table of what a cluster has to reach says what was measured."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.cluster.targets import TARGETS, missed, table

RESULTS: dict[str, Any] = {
    "routing": {
        "consistent_hash": {"kept": 1.0, "encoded": 30},
        "round_robin": {"kept": 0.7, "encoded": 88},
    },
    "kill": {"lost": 0, "requests": 250, "whole_again_seconds": 20.5},
    "scaling": {
        "requests": 500,
        "by_status": {"200": 500},
        "ended_with_an_error_amid_the_stream": 0,
        "up_seconds": 26,
        "down_seconds": 66,
    },
    "overhead": {"request": 2.0, "token": 0.6},
    "batch": {"lines": 2000, "once": 2000, "answers": 2000},
    "simulation": [
        {"costs": "11b", "load": 0.5, "ratio": 0.05, "encoded": 1.02},
        {"costs": "demo", "load": 0.7, "ratio": 0.15, "encoded": 1.18},
    ],
}


def test_each_target_has_a_line() -> None:
    lines = table(RESULTS)[2:]
    assert len(lines) == len(TARGETS)
    assert missed(RESULTS) == []
    assert all(line.endswith("| reached |") for line in lines)
    assert "100.0% (round robin: 70.0%)" in lines[0]


def test_parts_that_did_not_run_are_left_out() -> None:
    results = {"overhead": {"request": 12.0, "token": 0.6}}
    lines = table(results)[2:]
    assert [line.split("|")[4].strip() for line in lines] == ["**missed**", "reached"]


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("routing", {"consistent_hash": {"kept": 0.94, "encoded": 30}}),
        ("routing", {"consistent_hash": {"kept": 1.0, "encoded": 37}}),
        ("kill", {"lost": 1}),
        ("scaling", {"by_status": {"200": 499, "503": 1}}),
        ("scaling", {"ended_with_an_error_amid_the_stream": 1}),
        ("overhead", {"request": 10.1}),
        ("overhead", {"token": 1.1}),
        ("batch", {"once": 1999}),
        ("batch", {"answers": 2001}),
        ("simulation", [{"costs": "11b", "load": 0.5, "ratio": 1.6, "encoded": 1}]),
        ("simulation", [{"costs": "11b", "load": 0.5, "ratio": 1, "encoded": 1.3}]),
    ],
)
def test_a_target_that_is_missed_is_named(part: str, wrong: Any) -> None:
    results = copy.deepcopy(RESULTS)
    if isinstance(wrong, dict):
        results[part] |= wrong
    else:
        results[part] = wrong
    assert len(missed(results)) == 1
