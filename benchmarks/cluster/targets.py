"""What a cluster has to reach, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Results = Mapping[str, Any]
"""What parts of the benchmark returned, by their names."""


@dataclass(frozen=True)
class Target:
    """One figure to reach.

    Attributes:
        part: The part of the benchmark that measures it.
        name: What it is.
        limit: What is to be reached, as text.
        shown: Returns what the part's result says, as text.
        is_met: Returns True if that is enough.
    """

    part: str
    name: str
    limit: str
    shown: Callable[[Any], str]
    is_met: Callable[[Any], bool]


TARGETS: Final = (
    Target(
        "routing",
        "requests about a picture that some replica has: answered by that replica",
        "95 %",
        lambda result: (
            f"{result['consistent_hash']['kept']:.1%} (round robin: "
            f"{result['round_robin']['kept']:.1%})"
        ),
        lambda result: result["consistent_hash"]["kept"] >= 0.95,
    ),
    Target(
        "routing",
        "images encoded with 3 replicas, 300 requests over 30 pictures",
        "at most 36",
        lambda result: (
            f"{result['consistent_hash']['encoded']:g} (round robin: "
            f"{result['round_robin']['encoded']:g})"
        ),
        lambda result: result["consistent_hash"]["encoded"] <= 36,
    ),
    Target(
        "kill",
        "a replica killed under load: requests lost without a clear error",
        "0, and whole again",
        lambda result: (
            f"{result['lost']} of {result['requests']}, whole again after "
            f"{result['whole_again_seconds']:g} s"
        ),
        lambda result: result["lost"] == 0,
    ),
    Target(
        "scaling",
        "scaling 1 to 3 and back under load: failed requests",
        "0",
        lambda result: (
            f"{failed(result)} of {result['requests']}; {result['up_seconds']} s up, "
            f"{result['down_seconds']} s down"
        ),
        lambda result: failed(result) == 0,
    ),
    Target(
        "overhead",
        "a front's cost per request, over a direct `mllama serve`",
        "at most 10 ms",
        lambda result: f"{result['request']:.1f} ms",
        lambda result: result["request"] <= 10,
    ),
    Target(
        "overhead",
        "a front's cost per token of a stream",
        "at most 1 ms",
        lambda result: f"{result['token']:.2f} ms",
        lambda result: result["token"] <= 1,
    ),
    Target(
        "batch",
        "batch of 2,000 questions killed twice: lines answered exactly once",
        "all",
        lambda result: f"{result['once']} of {result['lines']}",
        lambda result: result["once"] == result["answers"] == result["lines"],
    ),
    Target(
        "simulation",
        "simulation: p99 to the first token, over least-loaded's",
        "at most 1.5",
        lambda result: _of_runs(result, "ratio"),
        lambda result: all(run["ratio"] <= 1.5 for run in result),
    ),
    Target(
        "simulation",
        "simulation: encoded images, over the distinct ones",
        "at most 1.2",
        lambda result: _of_runs(result, "encoded"),
        lambda result: all(run["encoded"] <= 1.2 for run in result),
    ),
)


def failed(result: Mapping[str, Any]) -> int:
    """Returns how many requests of a load were not answered to their end."""
    answered = result["by_status"].get("200", 0)
    answered -= result["ended_with_an_error_amid_the_stream"]
    return int(result["requests"] - answered)


def _of_runs(result: Any, name: str) -> str:
    return ", ".join(
        f"{run[name]:.2f} ({run['costs']}, {run['load']:.0%})" for run in result
    )


def table(results: Results) -> list[str]:
    """Returns the lines of a table in Markdown.

    Args:
        results: What parts returned; those that did not run are left out.
    """
    lines = ["| what | to reach | measured | |", "|---|---|---|---|"]
    for target in TARGETS:
        if target.part in results:
            result = results[target.part]
            mark = "reached" if target.is_met(result) else "**missed**"
            shown = target.shown(result)
            lines.append(f"| {target.name} | {target.limit} | {shown} | {mark} |")
    return lines


def missed(results: Results) -> list[str]:
    """Returns the names of the targets that the results miss."""
    return [
        target.name
        for target in TARGETS
        if target.part in results and not target.is_met(results[target.part])
    ]
