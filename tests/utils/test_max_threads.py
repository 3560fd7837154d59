"""The spin time of MAX's threads is the same in both of its variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mllama.demo_model import MODEL_PATH
from mllama.utils import max_threads

ENGINE, CONFIGURATION = max_threads._SPINNING


@pytest.fixture
def unset_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a process without MAX, with neither variable set."""
    for name in (ENGINE, CONFIGURATION):
        # Setting first makes pytest undo what the test sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "max._core", raising=False)


def spin_times() -> list[str | None]:
    return [os.environ.get(name) for name in (ENGINE, CONFIGURATION)]


def test_threads_spin_briefly(unset_variables: None) -> None:
    max_threads.limit_spinning()
    assert spin_times() == ["50", "50"]


@pytest.mark.parametrize("given", [ENGINE, CONFIGURATION])
def test_either_variable_of_the_user_sets_both(
    unset_variables: None, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(given, "7")
    max_threads.limit_spinning()
    assert spin_times() == ["7", "7"]


def test_nothing_changes_once_max_is_loaded(
    unset_variables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "max._core", sys)
    max_threads.limit_spinning()
    assert spin_times() == [None, None]


def test_a_command_accepts_one_variable_alone(tmp_path: Path) -> None:
    """MAX ends a process whose two variables differ."""
    target = tmp_path / "model.gguf"
    done = subprocess.run(
        [sys.executable, "-m", "mllama", "quantize", str(MODEL_PATH), str(target)],
        env={name: value for name, value in os.environ.items() if name != ENGINE}
        | {CONFIGURATION: "70"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert target.is_file()
