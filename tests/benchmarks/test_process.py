"""Engines answer over pipes, and report failures in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.compare import process
from benchmarks.compare.process import EngineFailure, EngineProcess
from benchmarks.compare.workloads import _rotated

ENGINE = """
import os, sys
sys.path.insert(0, {folder!r})
from protocol import answer_requests
def load():
    print("noise on stdout")
    if "fail" in sys.argv: raise OSError("no such model")
    def add(a, b): return {{"sum": a + b, "threads": os.environ["OMP_NUM_THREADS"]}}
    def fail(): raise ValueError("two\\nlines")
    def end(): print("thread panicked: why", file=sys.stderr, flush=True); os._exit(3)
    return {{"add": add, "fail": fail, "end": end}}
answer_requests(load)
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    script = ENGINE.format(folder=str(process._SCRIPTS))
    (tmp_path / "stand_in.py").write_text(script)
    monkeypatch.setattr(process, "_SCRIPTS", tmp_path)
    monkeypatch.setattr(process, "FOLDER", tmp_path)
    return iter(())


def started(*arguments: str) -> EngineProcess:
    return EngineProcess("engine", Path(sys.executable), "stand_in", arguments, 2)


@pytest.mark.usefixtures("engines")
def test_an_engine_returns_answers_and_reports_failures() -> None:
    engine = started()
    try:
        assert engine.ask("add", a=1, b=2) == {"sum": 3, "threads": "2"}
        with pytest.raises(EngineFailure, match=r"^ValueError: two lines$"):
            engine.ask("fail")
        assert engine.ask("add", a=2, b=2)["sum"] == 4
        with pytest.raises(EngineFailure, match="ended with 3: thread panicked: why"):
            engine.ask("end")
        assert not engine.is_alive
        with pytest.raises(EngineFailure, match="ended with 3"):
            engine.ask("add", a=1, b=1)
    finally:
        engine.close()
        engine.close()


@pytest.mark.usefixtures("engines")
def test_an_engine_that_cannot_load_reports_the_reason() -> None:
    with pytest.raises(EngineFailure, match="OSError: no such model"):
        started("fail")


def test_each_round_starts_with_another_engine() -> None:
    order: list[int] = []
    calls = [lambda n=n: order.append(n) for n in range(3)]
    for number in range(4):
        _rotated(calls, number)
    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
